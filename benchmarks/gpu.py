"""`make gpu`: what a CPU cannot show, on a machine with a card; eight minutes, no network.

Writes benchmarks/gpu.csv with the card's name, and prints it. Parts:
  tests     the tests that ask for a card
  cpu, cuda the demo's original, retrained and reference models, and held-out targets and Forget-MI
            on them, on either; the CPU's run beside the card's
  step      a step at the paper's size: time, share of the card's bf16 rate, share spent waiting for
            data, peak memory against the estimate, and the naive loop of benchmark (g)
  models    sixteen small models one by one and side by side
  notebook  one notebook through papermill
What the machine lacks of the packages comes from the folder that `make gpu-wheels` fills.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).parent
RESULTS, WHEELS = HERE / "gpu.csv", HERE.parent / ".wheels"
WHEELS_PYTHON = (3, 12)
PARTS = ("tests", "cpu", "cuda", "step", "models", "notebook")
CLASSES = 4


def main() -> None:
    """All parts, or some; each in a process of its own."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="*", choices=PARTS, default=PARTS)
    parser.add_argument("--part", choices=PARTS, help=argparse.SUPPRESS)
    parser.add_argument("--table", type=Path, default=RESULTS)
    options = parser.parse_args()
    if options.part:
        globals()[f"part_{options.part}"]().to_csv(options.table, index=False)
        return
    install_wheels()
    import pandas as pd
    import torch

    from forget_mi.errors import InputError
    from forget_mi.training.config import DeviceConfig
    from forget_mi.training.devices import describe_device, make_accelerator

    try:
        card = describe_device(make_accelerator(DeviceConfig(device="cuda")).device)
    except InputError as error:
        raise SystemExit(f"make gpu: {error}") from None
    about = f"{card}, torch {torch.__version__}, Python {sys.version.split()[0]}"
    print(about, flush=True)
    with tempfile.TemporaryDirectory() as folder:
        tables = {part: Path(folder) / f"{part}.csv" for part in options.only}
        beside = [start(part, tables[part]) for part in options.only if part == "cpu"]
        failed = [
            part for part in options.only if part != "cpu" and start(part, tables[part]).wait()
        ]
        failed += ["cpu" for process in beside if process.wait()]
        found = [pd.read_csv(path) for path in tables.values() if path.is_file()]
    table = pd.concat(found, ignore_index=True).assign(card=about)
    table.to_csv(options.table, index=False, float_format="%.4g")
    print(table.drop(columns="card").to_string(), flush=True)
    if failed:
        raise SystemExit(f"failed: {', '.join(failed)}")


def start(part: str, table: Path) -> subprocess.Popen:
    """A part in a process of its own."""
    print(f"{part} ...", flush=True)
    return subprocess.Popen([sys.executable, __file__, "--part", part, "--table", table])


def install_wheels() -> None:
    """Put what `make gpu-wheels` fetched, if anything for this Python, where it and its children
    find it."""
    if not WHEELS.is_dir() or sys.version_info[:2] != WHEELS_PYTHON:
        return
    target = Path(tempfile.gettempdir()) / "forget-mi-site"
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps"]
    subprocess.run([*command, "--upgrade", "--target", target, *WHEELS.glob("*.whl")], check=True)
    os.environ["PYTHONPATH"] = os.pathsep.join([os.environ.get("PYTHONPATH", ""), str(target)])
    sys.path.append(str(target))


def part_tests():
    """Passed, failed and skipped tests that ask for a card."""
    import re

    command = [
        sys.executable,
        "-m",
        "pytest",
        "-p",
        "no:cacheprovider",
        "tests/training/test_cuda.py",
    ]
    done = subprocess.run(command, cwd=HERE.parent, capture_output=True, text=True)
    print(done.stdout[-3000:], flush=True)
    counts = {what: int(n) for n, what in re.findall(r"(\d+) (passed|failed|error)", done.stdout)}
    return table("tests", "tests that ask for a card", "cuda", {"passed": 0, "failed": 0} | counts)


def part_cpu():
    """The chain on the processor."""
    return chain("cpu")


def part_cuda():
    """The chain on the card."""
    return chain("cuda")


def chain(device: str):
    """The demo's original, a retrained model and the references on a device, and the default method
    and Forget-MI on them: seconds and measures."""
    import pandas as pd

    from forget_mi.data import make_request, split_by_patient
    from forget_mi.runs import draw_salt, load_model, open_run, train_models
    from forget_mi.studies.study import Study, approach_settings
    from forget_mi.unlearning import parse_approach

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
        started = time.perf_counter()
        seconds = {n: m["seconds"] for n, m in train_models(run, names, cohort, request).items()}
        rows.append(
            table("chain", "all trainings", device, {"seconds": time.perf_counter() - started})
        )
        study = Study.open(run, cohort, request)
        models = {n: load_model(run, n, cohort, finished=False) for n in names[:2]}
        for approach in ("held_out_targets", "forget_mi-multimodal"):
            settings = approach_settings(approach, "demo")
            found = study.forget(parse_approach(approach)[0], settings, alone=True)
            models[approach], seconds[approach] = found.model, found.seconds
        for name, model in models.items():
            rows.append(
                table("chain", name, device, {"seconds": seconds[name], **study.measures(model)})
            )
    return pd.concat(rows)


def part_step(pixels: int = 2048, records: int = 16, steps: int = 10):
    """A step of Forget-MI at the paper's size. Random weights and records; the cost is the same."""
    import pandas as pd
    import torch
    from paper import SCIBERT_VOCABULARY, paper_model
    from unlearning_step import against_naive, setting

    from forget_mi.models.config import NAMED, ModelConfig
    from forget_mi.training.config import DeviceConfig
    from forget_mi.training.devices import make_accelerator
    from forget_mi.training.memory import estimate_step
    from forget_mi.unlearning import forget_mi
    from forget_mi.unlearning.base import UnlearningData

    model, _ = paper_model(CLASSES)
    rng = torch.Generator().manual_seed(0)
    tokens = NAMED["paper"].max_tokens
    sides = [
        random_examples(records, pixels, tokens, SCIBERT_VOCABULARY, rng, first)
        for first in (0, 1000)
    ]
    data = UnlearningData(forget=sides[0], retain=sides[1], validation=sides[1])

    def seconds_a_step(cohort_on: str) -> float:
        accelerator, taken = make_accelerator(DeviceConfig(cohort_on=cohort_on)), []
        for epochs in (3, 3, 3 + steps):  # the first takes what is loaded and chosen once
            how = forget_mi.Config(
                setting="no_noise", epochs=epochs, batch_size=records, retain_batch=records,
                least_steps=1, stop="never",
            )  # fmt: skip
            torch.cuda.reset_peak_memory_stats()
            started = time.perf_counter()
            forget_mi.unlearn(model, data, how, seed=0, accelerator=accelerator, progress=False)
            torch.cuda.synchronize()
            taken.append(time.perf_counter() - started)
        return (taken[2] - taken[1]) / steps

    placed = seconds_a_step("device")
    read = seconds_a_step("host")
    peak = torch.cuda.max_memory_allocated()
    estimate = estimate_step(NAMED["paper"], pixels).unlearning(2 * records)
    operations = step_operations(model, data, records)
    measured = {
        "milliseconds": 1000 * read,
        "milliseconds_cohort_on_device": 1000 * placed,
        "share_waiting_for_data": max(0.0, 1 - placed / read),
        "images_per_second": 2 * records / read,
        "share_of_bf16_rate": operations / read / bf16_rate(),
        "peak_gib": peak / 2**30,
        "estimate_over_peak": estimate / peak,
    }
    what = f"{pixels} px, {records} + {records} records"
    rows = [table("step", what, "cuda", measured)]
    small, whole = setting(
        ModelConfig(**{**NAMED["paper"].__dict__, "text_pretrained": None}), pixels, 16, 0.3
    )
    how = forget_mi.Config(
        epochs=2, batch_size=records, retain_batch=records, least_steps=1, stop="never"
    )
    ratio = sorted(against_naive(small, whole, how, rounds=3))[1]
    rows.append(table("step", f"naive loop over ours, {pixels} px", "cuda", {"ratio": ratio}))
    return pd.concat(rows)


def step_operations(model, data, records: int) -> float:
    """Floating-point operations of a step of `records` + `records`, forward and backward."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    from forget_mi.data import stored_batch, to_float

    some = list(range(records))
    batch = stored_batch([(data.forget, some), (data.retain, some)])
    batch = {name: tensor.cuda() for name, tensor in batch.items()}
    model = model.cuda().train()
    with FlopCounterMode(display=False) as counter, torch.autocast("cuda", torch.bfloat16):
        output = model(to_float(batch["images"]), batch["input_ids"], batch["attention_mask"])
        sum(z.square().sum() for z in output.embeddings).backward()
    model.zero_grad(set_to_none=True)
    return float(counter.get_total_flops())


def bf16_rate(size: int = 8192, rounds: int = 20) -> float:
    """Operations a second of the card in bf16, by a large matrix product."""
    import torch

    a = torch.randn(size, size, device="cuda", dtype=torch.bfloat16)
    for count in (3, rounds):
        torch.cuda.synchronize()
        started = time.perf_counter()
        for _ in range(count):
            a @ a
        torch.cuda.synchronize()
    return 2 * size**3 * rounds / (time.perf_counter() - started)


def random_examples(count: int, pixels: int, tokens: int, vocabulary: int, rng, first: int):
    """Random records."""
    import torch

    from forget_mi.data.batches import Examples

    ids = torch.randint(5, vocabulary, (count, tokens), generator=rng)
    return Examples.from_tensors(
        torch.randint(0, 256, (count, 1, pixels, pixels), generator=rng, dtype=torch.uint8),
        torch.randint(0, CLASSES, (count,), generator=rng),
        input_ids=ids,
        attention_mask=torch.ones_like(ids),
        patients=first + torch.arange(count),
    )


def part_models(count: int = 16, epochs: int = 3):
    """So many of the demo's models, a few epochs each, one by one and side by side."""
    from dataclasses import replace

    from forget_mi.runs import load_profile, parallel_models, run_parallel

    params = load_profile("demo", {"device.device": "cuda", "device.threads": None})
    seconds = {}
    for name, device in (
        ("one by one", replace(params.device, models=1)),
        ("side by side", params.device),
    ):
        run_parallel(small_training, [(seed, 1) for seed in range(parallel_models(device))], device)
        started = time.perf_counter()
        losses = run_parallel(small_training, [(seed, epochs) for seed in range(count)], device)
        seconds[name] = time.perf_counter() - started, losses
    alone, together = seconds["one by one"], seconds["side by side"]
    measured = {
        "seconds_one_by_one": alone[0],
        "seconds_side_by_side": together[0],
        "ratio": alone[0] / together[0],
        "at_once": parallel_models(params.device),
        "largest_difference_of_losses": max(
            abs(a - b) for a, b in zip(alone[1], together[1], strict=True)
        ),
    }
    return table("models", f"{count} small models, {epochs} epochs each", "cuda", measured)


def small_training(job: tuple[int, int]) -> float:
    """The loss with which a small model's training ends."""
    from dataclasses import replace

    from forget_mi.data import rows_of, split_by_patient
    from forget_mi.data.cohort import Cohort
    from forget_mi.data.cohorts import synthetic
    from forget_mi.data.splits import SplitConfig
    from forget_mi.runs import load_profile
    from forget_mi.training import make_accelerator, train_new

    seed, epochs = job
    params = load_profile("demo", {"device.device": "cuda", "device.threads": None})
    settings = synthetic.SyntheticConfig(patients=200, image_size=64)
    cohort: Cohort = split_by_patient(synthetic.load(settings), SplitConfig())
    _, _, log = train_new(
        cohort,
        rows_of(cohort, "train"),
        params.model,
        replace(params.training, epochs=epochs),
        seed=seed,
        accelerator=make_accelerator(params.device),
        progress=False,
    )
    return log.epochs[-1]["train_loss"]


def part_notebook():
    """Seconds of notebook 02 on the tiny profile, through papermill, on the card."""
    command = [sys.executable, "-m", "forget_mi", "run", "tiny", "--run-dir"]
    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        subprocess.run([*command, folder, "--set", "device.device=cuda"], check=True)
        return table(
            "notebook", "the tiny chain through papermill", "cuda",
            {"seconds": time.perf_counter() - started},
        )  # fmt: skip


def table(part: str, what: str, device: str, measured: dict):
    """A row a measure."""
    import pandas as pd

    return pd.DataFrame(
        [
            {"part": part, "what": what, "device": device, "measure": name, "value": float(value)}
            for name, value in measured.items()
        ]
    )


if __name__ == "__main__":
    main()
