"""(e): what each notebook costs before it does anything (start of the kernel, imports, reading
and writing), and the import of the library; (f): memory by size of cohort; (h): the audit's
bootstrap."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import threading
import time
from functools import partial
from pathlib import Path

import numpy as np
from measure import Row, Work, alternately, seconds, spread
from sklearn.metrics import roc_auc_score

from forget_mi.attacks.base import Scores
from forget_mi.evaluation.attack_rates import BootstrapWeights, Patients, rates
from forget_mi.runs.chain import NOTEBOOKS, run_chain

LIMIT = 8.0
TRAIN = (
    "train_models(run, ",
    ".unlearn(",
    "unlearn_references(",
    "relearning_speed(",
    "trained_on(",
)


def notebooks() -> list[Row]:
    """Seconds of each notebook on the tiny profile without its cells that train a model (its other
    work takes next to none), over the limit of 8 s; median and quartiles of three chains. Then the
    import of a run's folder and models over that of torch and transformers."""
    found = {name: [] for name in NOTEBOOKS}
    for once in range(4):
        with tempfile.TemporaryDirectory() as folder:
            for name in NOTEBOOKS:
                took = seconds(
                    partial(run_chain, "tiny", Path(folder) / "tiny", None, [name], progress=False)
                )
                # Of 03 there are two, side by side: the chain waits for the slower one.
                trained = max(
                    training_seconds(path) for path in Path(folder).rglob(f"{name}.ipynb")
                )
                if once > 0:  # the first warms the disk's cache
                    found[name].append((took - trained) / LIMIT)
    rows = [Row("e", f"{name}, of {LIMIT:g} s", *spread(values)) for name, values in found.items()]
    ours = "import forget_mi.runs.run, forget_mi.runs.models"
    library = alternately(python(ours), python("import torch, transformers"), rounds=5)
    return [*rows, Row("e", "import of the library over torch and transformers", *library)]


def python(code: str) -> Work:
    """A process of its own that runs the code."""
    return partial(subprocess.run, [sys.executable, "-c", code], check=True)


def training_seconds(executed: Path) -> float:
    """Of an executed notebook: what its cells took in which a model is trained, unlearned or
    relearned."""
    cells = [
        cell for cell in json.loads(executed.read_text())["cells"] if cell["cell_type"] == "code"
    ]
    trains = [any(call in "".join(cell["source"]) for call in TRAIN) for cell in cells]
    return sum(
        c["metadata"]["papermill"]["duration"] or 0
        for c, it_does in zip(cells, trains, strict=True)
        if it_does
    )


def memory() -> list[Row]:
    """Peak memory of an epoch of training and an unlearning over a cohort of 48,000 images on disk,
    over that with 6,000 (with fewer, the validation set does not fill two batches of evaluation);
    pages of files, which the system takes back when it needs them, are not counted."""
    found = []
    for _ in range(3):
        few, many = (printed([sys.executable, __file__, str(images)]) for images in (6000, 48_000))
        found.append(many / few)
    return [Row("f", "peak memory, 48,000 images over 6,000", *spread(found))]


def printed(command: list[str]) -> int:
    """The number that a command prints last."""
    return int(
        subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()[-1]
    )


def audit() -> list[Row]:
    """500 bootstrap draws of an attack: all at once, against scikit-learn draw by draw."""
    rng = np.random.default_rng(0)
    scores = Scores(rng.normal(0.5, 1, 110), rng.normal(size=310))
    patients = Patients(np.arange(110) // 4, np.arange(310) // 4)

    def plain() -> list[float]:
        draws = BootstrapWeights.sample(patients, 500, 0)
        truth, values = np.repeat([1, 0], [110, 310]), np.concatenate(scores)
        return [
            roc_auc_score(truth, values, sample_weight=np.concatenate(w))
            for w in zip(*draws, strict=True)
        ]

    def ours() -> np.ndarray:
        return rates(scores, BootstrapWeights.sample(patients, 500, 0))["auc"]

    np.testing.assert_allclose(plain(), ours())
    return [
        Row(
            "h",
            "bootstrap of an attack, scikit-learn draw by draw over all at once",
            *alternately(plain, ours, 5),
        )
    ]


def peak_memory(images: int) -> int:
    """Peak anonymous memory of this process, in kB, over an epoch of training and an unlearning."""
    from dataclasses import replace

    from scaling import repeated

    from forget_mi.data.cohort import ImageRows
    from forget_mi.data.cohorts import synthetic
    from forget_mi.data.requests import draw_request
    from forget_mi.data.splits import SplitConfig, split_by_patient
    from forget_mi.models.build import build_model
    from forget_mi.models.config import NAMED
    from forget_mi.models.tokenizers import build_tokenizer
    from forget_mi.training.config import TrainingConfig
    from forget_mi.training.devices import make_accelerator
    from forget_mi.training.loop import train
    from forget_mi.unlearning import forget_mi
    from forget_mi.unlearning.base import UnlearningData

    with tempfile.TemporaryDirectory() as folder:
        cohort = repeated(
            synthetic.load(synthetic.SyntheticConfig(patients=200, image_size=128)), images
        )
        np.save(Path(folder) / "images.npy", cohort.images)
        on_disk = ImageRows(np.load(Path(folder) / "images.npy", mmap_mode="r"), np.arange(images))
        cohort = split_by_patient(replace(cohort, images=on_disk), SplitConfig())
        request = draw_request(cohort, 100 / images, seed=0)
        tokenizer = build_tokenizer(NAMED["small"], list(cohort.reports.values())[:500])
        data = UnlearningData.from_cohort(cohort, request, tokenizer, NAMED["small"].max_tokens)
        model = build_model(NAMED["small"], len(cohort.classes), len(tokenizer), seed=0)
        peak, done = [0], threading.Event()
        watcher = threading.Thread(target=_watch, args=(peak, done))
        watcher.start()
        accelerator = make_accelerator()
        settings = TrainingConfig(epochs=1, batch_size=32)
        # The same number of steps whatever the size: what may grow is what is held, not what is
        # done.
        some = data.retain.select(np.random.default_rng(0).permutation(len(data.retain))[:1000])
        train(
            model, some, data.validation, settings, seed=0, accelerator=accelerator, progress=False
        )
        unlearning = forget_mi.Config(epochs=1, stop="never")
        forget_mi.unlearn(model, data, unlearning, seed=0, accelerator=accelerator, progress=False)
        done.set()
        watcher.join()
    return peak[0]


def _watch(peak: list[int], done: threading.Event) -> None:
    while not done.is_set():
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("RssAnon"):
                peak[0] = max(peak[0], int(line.split()[1]))
        time.sleep(0.001)


if __name__ == "__main__":
    print(peak_memory(int(sys.argv[1])))
