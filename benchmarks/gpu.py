"""`make gpu`: the main models on the card against the same machine's processor, and a step at the
paper's size; writes benchmarks/gpu.csv with the card's name. Needs no network.

The processor's part runs beside the card's, in a process of its own, and the step after it.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from transformers import BertConfig

from forget_mi.data import make_request, split_by_patient
from forget_mi.data.batches import Examples
from forget_mi.models.build import build_model
from forget_mi.models.config import NAMED
from forget_mi.runs import draw_salt, load_model, open_run, train_models
from forget_mi.studies.study import Study, approach_settings
from forget_mi.training.config import DeviceConfig
from forget_mi.training.devices import describe_device, make_accelerator
from forget_mi.unlearning import forget_mi as forget_mi_method
from forget_mi.unlearning import parse_approach
from forget_mi.unlearning.base import UnlearningData

RESULTS = Path(__file__).parent / "gpu.csv"


CLASSES, VOCABULARY = 4, 31_090


def main() -> None:
    """All parts, or one of them for the process that runs it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--part", choices=("cuda", "cpu", "step"), help=argparse.SUPPRESS)
    parser.add_argument("--table", type=Path, default=RESULTS)
    options = parser.parse_args()
    if options.part:
        found = step() if options.part == "step" else chain(options.part)
        found.to_csv(options.table, index=False)
        return
    card = describe_device(make_accelerator(DeviceConfig(device="cuda")).device)
    about = f"{card}, torch {torch.__version__}, Python {sys.version.split()[0]}"
    print(about, flush=True)
    with tempfile.TemporaryDirectory() as folder:
        tables = {part: Path(folder) / f"{part}.csv" for part in ("cpu", "cuda")}
        running = {
            part: subprocess.Popen([sys.executable, __file__, "--part", part, "--table", path])
            for part, path in tables.items()
        }
        failed = [part for part, process in running.items() if process.wait()]
        found = [pd.read_csv(path) for path in tables.values() if path.is_file()]
    table = pd.concat([*found, step()], ignore_index=True).assign(card=about)
    table.to_csv(options.table, index=False, float_format="%.4g")
    print(table.drop(columns="card").to_string(), flush=True)
    if failed:
        raise SystemExit(f"failed: {', '.join(failed)}")


def chain(device: str) -> pd.DataFrame:
    """The demo's original, a retrained model and the references on a device, and the default method
    and Forget-MI on them: seconds and measures."""
    # Four threads a model leave each of 16 cores to one of four models.
    changes = {"device.device": device, "retrained": 1, "shadows.count": 0}
    changes["device.threads"] = 4 if device == "cpu" else None
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        run = open_run("demo", folder, changes)
        draw_salt(run.folder)
        cohort = split_by_patient(run.source(), run.params.split)
        request = make_request(cohort, run.params.request)
        names = ["original", *run.retrained_seeds(), *run.reference_seeds()]
        seconds = {n: m["seconds"] for n, m in train_models(run, names, cohort, request).items()}
        study = Study.open(run, cohort, request)
        models = {n: load_model(run, n, cohort, finished=False) for n in names[:2]}
        for approach in ("held_out_targets", "forget_mi-multimodal"):
            settings = approach_settings(run, approach, "demo")
            found = study.forget(parse_approach(approach)[0], settings, alone=True)
            models[approach], seconds[approach] = found.model, found.seconds
        for name, model in models.items():
            measured = {"seconds": seconds[name], **study.measures(model)}
            rows += [row("chain", name, device, *item) for item in measured.items()]
    return pd.DataFrame(rows)


def step(pixels: int = 2048, records: int = 16, steps: int = 10) -> pd.DataFrame:
    """A step of Forget-MI at the paper's size on the card: milliseconds, images a second, peak
    memory. Random weights and records; the cost is the same."""
    settings = replace(NAMED["paper"], text_pretrained=None)
    shape = BertConfig(vocab_size=VOCABULARY, num_labels=CLASSES)
    model = build_model(settings, CLASSES, VOCABULARY, seed=0, text_config=shape)
    rng = torch.Generator().manual_seed(0)
    sides = [examples(records, pixels, settings.max_tokens, rng, first) for first in (0, 1000)]
    data = UnlearningData(forget=sides[0], retain=sides[1], validation=sides[1])
    accelerator = make_accelerator(DeviceConfig())
    seconds = []
    for epochs in (3, 3, 3 + steps):  # the first takes what is loaded and chosen once
        how = forget_mi_method.Config(
            setting="no_noise", epochs=epochs, batch_size=records, retain_batch=records,
            least_steps=1, stop="never",
        )  # fmt: skip
        torch.cuda.reset_peak_memory_stats()
        started = time.perf_counter()
        forget_mi_method.unlearn(model, data, how, seed=0, accelerator=accelerator, progress=False)
        torch.cuda.synchronize()
        seconds.append(time.perf_counter() - started)
    a_step = (seconds[2] - seconds[1]) / steps
    what = f"{pixels} px, {records} + {records} records"
    measured = {
        "milliseconds": 1000 * a_step,
        "images_per_second": 2 * records / a_step,
        "peak_gib": torch.cuda.max_memory_allocated() / 2**30,
    }
    return pd.DataFrame([row("step", what, "cuda", *item) for item in measured.items()])


def examples(count: int, pixels: int, tokens: int, rng: torch.Generator, first: int) -> Examples:
    """Random records."""
    ids = torch.randint(5, VOCABULARY, (count, tokens), generator=rng)
    return Examples.from_tensors(
        torch.randint(0, 256, (count, 1, pixels, pixels), generator=rng, dtype=torch.uint8),
        torch.randint(0, CLASSES, (count,), generator=rng),
        input_ids=ids,
        attention_mask=torch.ones_like(ids),
        patients=first + torch.arange(count),
    )


def row(part: str, what: str, device: str, measure: str, value: float) -> dict:
    """A line of the table."""
    return {"part": part, "what": what, "device": device, "measure": measure,
            "value": float(np.round(value, 6))}  # fmt: skip


if __name__ == "__main__":
    main()
