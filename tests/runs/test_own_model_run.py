"""A model that was trained elsewhere goes through the whole chain, a deletion request, and out
again."""

import json

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from safetensors.torch import save_file

from forget_mi.models.build import build_model
from forget_mi.models.config import ModelConfig
from forget_mi.models.pretrained import from_pretrained
from forget_mi.models.tokenizers import build_tokenizer
from forget_mi.requests.card import pack_model
from forget_mi.requests.served_model import ServedModel
from forget_mi.requests.serving import serve
from forget_mi.runs.chain import NotebookError, run_chain
from forget_mi.runs.models import load_model
from forget_mi.runs.run import open_run

FACTORY = """
import torch
from torch import nn
from transformers import BertConfig, BertForSequenceClassification


def networks(classes, vocabulary):
    image = nn.Sequential(nn.Conv2d(1, 4, 3, 4), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(),
                          nn.Linear(16, classes))
    text = BertForSequenceClassification(
        BertConfig(vocab_size=vocabulary, hidden_size=16,
                   num_hidden_layers=1, num_attention_heads=2,
                   intermediate_size=16, num_labels=classes)
    )
    return {"image": image, "text": text}
"""
TUNED = {"method": "neg_grad_plus", "epochs": 1}


@pytest.fixture(scope="module")
def own(tmp_path_factory):
    """A folder with the code of a factory, weights of what it makes, and a tokenizer; what the
    params say of them."""
    folder = tmp_path_factory.mktemp("own")
    (folder / "their_code.py").write_text(FACTORY)
    tokenizer = build_tokenizer(
        ModelConfig(text_vocabulary=200), ["mild edema is seen", "no effusion"] * 5
    )
    tokenizer.save_pretrained(folder / "tokenizer")
    section = {
        "factory": "their_code:networks",
        "arguments": {"vocabulary": len(tokenizer)},
        "max_tokens": 24,
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(folder))
        model = build_model(ModelConfig(**section), 4, len(tokenizer), seed=3)
        save_file(model.state_dict(), folder / "weights.safetensors")
    return folder, {
        **section,
        "weights": str(folder / "weights.safetensors"),
        "tokenizer": str(folder / "tokenizer"),
    }


@pytest.fixture(scope="module")
def finished(own, tmp_path_factory):
    """The chain on that model, which is trained no further; nothing is retrained."""
    folder, section = own
    overrides = {
        "model": section,
        "retrained": 0,
        "references.folds": 0,
        "shadows.count": 0,
        "unlearning": TUNED,
    }
    run_dir = tmp_path_factory.mktemp("chain") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(folder))
        patch.syspath_prepend(str(folder))
        yield run_chain("tiny", run_dir, overrides, progress=False), overrides


def test_the_chain_takes_it_over_and_makes_it_forget(finished, own):
    run, _ = finished
    cohort = run.cohort()
    taken = load_model(run, "original", cohort)
    folder, _ = own
    from safetensors.torch import load_file

    given = load_file(folder / "weights.safetensors")
    assert all(torch.equal(value, given[name]) for name, value in taken.model.state_dict().items())
    assert np.isnan(taken.manifest["seconds"])
    table = pd.read_csv(run.folder / "comparison.csv")
    assert list(table.model) == ["original", "neg_grad_plus"]
    assert table.share_of_retraining.isna().all()


def test_a_request_is_served_and_reported(finished, tmp_path):
    run, _ = finished
    cohort = run.cohort()
    first = cohort.table.patient_id[cohort.table.split == "train"].iloc[0]
    (tmp_path / "forget.csv").write_text(f"subject_id\n{first}\n")
    served = serve(run.folder, tmp_path / "forget.csv", {})
    facts = json.loads((served / "report.json").read_text())
    assert facts["done"]["share_of_training"] is None
    assert (served / "report.html").is_file()
    assert len(ServedModel(run.folder).ledger) == 1


def test_it_goes_out_again(finished, tmp_path):
    run, _ = finished
    model, batch = pack_model(run, "neg_grad_plus", tmp_path / "out")
    again, _ = from_pretrained(tmp_path / "out")
    for a, b in zip(
        *(m(batch["images"], batch["input_ids"], batch["attention_mask"]) for m in (model, again)),
        strict=True,
    ):
        assert torch.equal(a, b)
    card = (tmp_path / "out" / "README.md").read_text()
    patients = run.request().patients
    assert f"{len(patients)} patients, by hashed id: " in card
    assert not any(patient in card for patient in patients)
    assert "| attack: loss |" in card
    saved = yaml.safe_load((tmp_path / "out" / "config.json").read_text())
    assert saved["model"]["weights"] is None


def test_a_model_that_does_not_fit_stops_notebook_02_with_one_line(own, tmp_path):
    folder, section = own
    broken = {**section, "arguments": {"vocabulary": 31}}
    overrides = {"model": broken, "retrained": 0, "references.folds": 0, "unlearning": TUNED}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(folder))
        with pytest.raises(
            NotebookError, match=r"the tokenizer has \d+ tokens and the text tower knows 31"
        ):
            run_chain(
                "tiny", tmp_path / "run", overrides, ["01_cohort", "02_train"], progress=False
            )
    assert not (open_run("tiny", tmp_path / "run").stage("02_train") / "original").exists()
