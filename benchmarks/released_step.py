"""The paper's profile from a folder in the authors' released format: one unlearning step and an
evaluation at 2048 px, `make benchmark-released`; prints seconds and the peak resident memory.

The weights are random (the cost is the same), written under the published names; the records are
the synthetic cohort's, exported in MIMIC-CXR's layout as DICOM and read back from it.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from paper import paper_model

from forget_mi.data.batches import make_examples
from forget_mi.data.cohort import rows_of
from forget_mi.data.cohorts import mimic_cxr, synthetic
from forget_mi.data.export import LABELS, export_cohort
from forget_mi.data.requests import draw_request
from forget_mi.data.splits import SplitConfig, split_by_patient
from forget_mi.models.config import NAMED
from forget_mi.models.released import CONFIG, WEIGHTS, load_released
from forget_mi.models.tokenizers import build_tokenizer
from forget_mi.training.devices import make_accelerator
from forget_mi.training.prediction import predict
from forget_mi.unlearning import forget_mi
from forget_mi.unlearning.base import UnlearningData


def main(arguments: list[str] | None = None) -> None:
    """Make the folders in a process of its own, so that the peak is that of reading and using
    them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pixels", type=int, default=2048)
    parser.add_argument(
        "--records", type=int, default=2, help="forget records of the step; as many retain records"
    )
    parser.add_argument("--make", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.make:
        make(options.make)
        return
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run([sys.executable, __file__, "--make", folder], check=True)
        measure(Path(folder), options.pixels, options.records)


def make(folder: Path) -> None:
    """The exported cohort, and the released folder."""
    cohort = synthetic.load(synthetic.SyntheticConfig(patients=24, image_size=256))
    export_cohort(split_by_patient(cohort, SplitConfig()), folder / "mimic")
    model, shape = paper_model(len(mimic_cxr.CLASSES))
    (folder / "released").mkdir()
    torch.save(
        {published_name(key): value for key, value in model.state_dict().items()},
        folder / "released" / WEIGHTS,
    )
    (folder / "released" / CONFIG).write_text(json.dumps(shape.to_dict()))


def published_name(key: str) -> str:
    """What the authors call a tensor of our paper model; the inverse of `released.renamed_key`."""
    if key.startswith("image_tower.stages."):
        number, rest = key.removeprefix("image_tower.stages.").split(".", 1)
        return f"img_model.layer{int(number) + 1}.{rest}"
    for ours, theirs in (
        ("image_tower.head.", "img_model.fc1."),
        ("image_tower.", "img_model."),
        ("text_tower.encoder.", "text_model.bert."),
        ("text_tower.head.", "text_model.classifier."),
    ):
        if key.startswith(ours):
            return theirs + key.removeprefix(ours)
    raise KeyError(key)


def measure(folder: Path, pixels: int, records: int) -> None:
    """Load, take one step of Forget-MI, evaluate a few records."""
    released = load_released(folder / "released")
    files = mimic_cxr.MimicConfig(
        root=folder / "mimic",
        labels=Path(LABELS),
        image_size=pixels,
        store=folder / "store",
        ids="plain",
    )
    cohort = split_by_patient(mimic_cxr.load(files), SplitConfig(published=True))
    request = draw_request(cohort, 0.1, seed=0)
    tokenizer = build_tokenizer(
        NAMED["small"], [cohort.report_of(row) for row in rows_of(cohort, "train")]
    )
    data = UnlearningData.from_cohort(cohort, request, tokenizer, released.model.max_tokens)
    data = replace(
        data, forget=first(data.forget, records), forget_reports=data.forget_reports[:records]
    )
    parameters = sum(p.numel() for p in released.model.parameters()) / 1e6
    print(
        f"{parameters:.0f} M parameters from {len(released.used)} tensors, {len(released.unused)} "
        "unused"
    )
    settings = forget_mi.Config(
        setting="multimodal",
        epochs=1,
        batch_size=records,
        retain_batch=records,
        least_steps=1,
        stop="never",
    )
    accelerator = make_accelerator()
    started = time.perf_counter()
    unlearned, log = forget_mi.unlearn(
        released.model, data, settings, seed=0, accelerator=accelerator, progress=False
    )
    losses = {
        name: round(value, 3)
        for name, value in log.epochs[-1].items()
        if name in ("uu", "ur", "mu", "mr")
    }
    print(f"one step of {records} + {records} records at {pixels} px, targets included: "
          f"{time.perf_counter() - started:.0f} s, losses {losses}")  # fmt: skip
    started = time.perf_counter()
    test = make_examples(
        cohort, rows_of(cohort, "test")[: 2 * records], tokenizer, released.model.max_tokens
    )
    said = predict(unlearned, test, accelerator)
    if not all(np.isfinite(logits).all() for logits in (said.image_logits, said.text_logits)):
        raise SystemExit("the model says NaN")
    print(f"evaluation of {len(test)} records: {time.perf_counter() - started:.0f} s")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(
        f"peak resident memory {peak:.1f} GiB on {accelerator.device.type}, "
        f"{accelerator.mixed_precision} precision"
    )


def first(examples, count: int):
    """The first records of a set."""
    kept = {name: getattr(examples, name)[:count] for name in examples.__dataclass_fields__}
    return type(examples)(**kept)


if __name__ == "__main__":
    main()
