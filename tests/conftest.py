import json
import shutil

import numpy as np
import pandas as pd
import pytest
import torch

from forget_mi.data.cohort import Cohort
from forget_mi.data.cohorts import synthetic
from forget_mi.data.requests import draw_request
from forget_mi.data.splits import SplitConfig, split_by_patient
from forget_mi.models.checkpoints import Checkpoint
from forget_mi.models.config import ModelConfig
from forget_mi.training.config import DeviceConfig, TrainingConfig
from forget_mi.training.devices import make_accelerator
from forget_mi.training.loop import train_new
from forget_mi.unlearning.base import UnlearningData
from forget_mi.unlearning.references import References

TINY_MODEL = ModelConfig(
    image_channels=(8, 8, 16),
    text_width=16,
    text_layers=1,
    text_heads=2,
    text_vocabulary=300,
    max_tokens=24,
)


def make_cohort(patients: list[str], labels: list[int], classes=("no", "yes")) -> Cohort:
    """A cohort of one black 8x8 image and one report a row."""
    n = len(patients)
    table = pd.DataFrame(
        {
            "patient_id": patients,
            "study_id": [f"s{i}" for i in range(n)],
            "image_id": [f"i{i}" for i in range(n)],
            "label": labels,
        }
    )
    reports = {f"s{i}": f"report number {i}" for i in range(n)}
    return Cohort("made", table, np.zeros((n, 1, 8, 8), np.uint8), reports, classes, synthetic=True)


def small_notebook(*sources: str, tag: str | None = None) -> str:
    """A notebook's JSON, a code cell a source; `tag` is the first one's."""
    cells = [
        {
            "cell_type": "code",
            "id": f"c{i}",
            "metadata": {"tags": [tag]} if tag and i == 0 else {},
            "outputs": [],
            "execution_count": None,
            "source": [source],
        }
        for i, source in enumerate(sources)
    ]
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    return json.dumps({"cells": cells, "metadata": kernel, "nbformat": 4, "nbformat_minor": 5})


def weights(model) -> dict:
    """A copy of a model's state."""
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def differs(a, b) -> bool:
    """Whether two states differ in any tensor."""
    return any(not torch.equal(a[name], b[name]) for name in a)


@pytest.fixture(scope="session")
def cohort() -> Cohort:
    settings = synthetic.SyntheticConfig(patients=40, image_size=32, images_per_patient=3)
    return split_by_patient(synthetic.load(settings), SplitConfig(test=0.25, validation=0.2))


@pytest.fixture(scope="session")
def request_10(cohort):
    return draw_request(cohort, 0.1, seed=0)


@pytest.fixture
def accelerator():
    return make_accelerator(DeviceConfig(device="cpu"))


@pytest.fixture(scope="session")
def original(cohort):
    """A tiny trained model with its tokenizer."""
    rows = np.flatnonzero(cohort.table.split == "train")
    model, tokenizer, _ = train_new(
        cohort,
        rows,
        TINY_MODEL,
        TrainingConfig(epochs=2, batch_size=16),
        seed=1,
        accelerator=make_accelerator(DeviceConfig(device="cpu")),
        progress=False,
    )
    return model, tokenizer


def two_references(cohort: Cohort, first, second) -> References:
    """Two models, each with its tokenizer, as references: every other training patient is a
    stranger to each."""
    patients = cohort.table.patient_id[cohort.table.split == "train"].unique()
    saved = {
        f"reference-{k}": Checkpoint(*pair, {}) for k, pair in enumerate((first, second), start=1)
    }
    saw = {"reference-1": frozenset(patients[0::2]), "reference-2": frozenset(patients[1::2])}
    return References(saved, saw, str)


@pytest.fixture(scope="session")
def references(cohort):
    """Two tiny models, each trained on every other training patient."""
    made = []
    for k in (0, 1):
        patients = cohort.table.patient_id[cohort.table.split == "train"].unique()[k::2]
        rows = np.flatnonzero(
            (cohort.table.split == "train") & cohort.table.patient_id.isin(patients)
        )
        accelerator = make_accelerator(DeviceConfig(device="cpu"))
        training = TrainingConfig(epochs=2, batch_size=16)
        made.append(
            train_new(
                cohort,
                rows,
                TINY_MODEL,
                training,
                seed=2 + k,
                accelerator=accelerator,
                progress=False,
            )[:2]
        )
    return two_references(cohort, *made)


@pytest.fixture(scope="session")
def unlearning_data(cohort, request_10, original, references):
    data = UnlearningData.from_cohort(cohort, request_10, original[1], TINY_MODEL.max_tokens)
    return references.teach(data, cohort)


@pytest.fixture(scope="session")
def chromium():
    """A headless browser: Debian's chromium. Without it the tests that look at pages are
    skipped."""
    from playwright.sync_api import sync_playwright

    path = shutil.which("chromium")
    if path is None:
        pytest.skip("no chromium on this machine: apt-get install chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield browser
        browser.close()
