import math
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import joblib
import numpy as np
import pytest
import torch
import torchvision
from conftest import TINY_MODEL

from forget_mi import losses
from forget_mi.data import batches
from forget_mi.data.batches import make_examples, tokenize
from forget_mi.data.cohort import rows_of
from forget_mi.data.loaders import make_loader
from forget_mi.errors import InputError
from forget_mi.models.build import build_model
from forget_mi.models.checkpoints import load_checkpoint, save_checkpoint
from forget_mi.models.config import NAMED
from forget_mi.models.towers import ImageTower
from forget_mi.runs.parallel import parallel_models, run_parallel
from forget_mi.training.config import DeviceConfig, TrainingConfig
from forget_mi.training.devices import make_accelerator, to_device
from forget_mi.training.loop import train, train_new
from forget_mi.training.prediction import predict

SETTINGS = TrainingConfig(epochs=3, batch_size=16, translation=0.05)


def fit(cohort, accelerator, settings=SETTINGS, seed=5, model=TINY_MODEL, **kwargs):
    rows = rows_of(cohort, "train")
    return train_new(
        cohort, rows, model, settings, seed=seed, accelerator=accelerator, progress=False, **kwargs
    )


def same(a, b) -> bool:
    return all(
        torch.equal(x, y)
        for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True)
    )


def test_reports_tokenised_in_pieces_are_those_tokenised_at_once(cohort, original, monkeypatch):
    reports = sorted(cohort.reports.values(), key=len)  # pieces of different lengths
    tokenizer = original[1]
    at_once = tokenizer(
        reports, truncation=True, max_length=200, padding="longest", return_tensors="pt"
    )
    monkeypatch.setattr(batches, "CHUNK", 7)
    assert len(reports) % 7  # the last piece is shorter
    in_pieces = tokenize(reports, tokenizer, 200)
    assert set(in_pieces) == {"input_ids", "attention_mask"}
    assert all(torch.equal(tensor.long(), at_once[name]) for name, tensor in in_pieces.items())


def test_tokens_take_five_bytes_each_and_models_see_int64(cohort, original):
    examples = make_examples(cohort, rows_of(cohort, "train"), original[1], TINY_MODEL.max_tokens)
    tokens = (examples.input_ids, examples.attention_mask)
    assert sum(t.untyped_storage().nbytes() for t in tokens) == 5 * examples.input_ids.numel()
    batch = examples.__getitems__([0, 1])
    assert {batch[name].dtype for name in ("input_ids", "attention_mask")} == {torch.int64}


def test_the_ranking_loss_counts_by_the_weight_of_the_model(cohort, accelerator, monkeypatch):
    once = TrainingConfig(epochs=1, batch_size=16)
    one, none = (
        fit(cohort, accelerator, once, model=replace(TINY_MODEL, ranking=weight))[0]
        for weight in (1.0, 0.0)
    )
    assert not same(one, none)
    monkeypatch.setattr(losses, "ranking_loss", lambda z, labels, studies: z.image.sum() * 0)
    assert same(fit(cohort, accelerator, once)[0], none)


def test_same_seed_same_model(cohort, accelerator):
    first, _, log = fit(cohort, accelerator)
    second, _, _ = fit(cohort, accelerator)
    other, _, _ = fit(cohort, accelerator, seed=6)
    assert same(first, second)
    assert not same(first, other)
    assert [row["epoch"] for row in log.epochs] == [1, 2, 3]
    assert log.seconds > 0


def test_an_accelerator_lets_go_of_earlier_models(cohort, accelerator, tmp_path):
    """They would be saved with, and loaded in place of, a later training's state."""
    fit(cohort, accelerator)
    fit(cohort, accelerator, state_folder=tmp_path / "state")
    saved = sorted(path.name for path in (tmp_path / "state" / "accelerate").iterdir())
    assert [name for name in saved if not name.startswith("random_states")] == [
        "model.safetensors", "optimizer.bin", "scheduler.bin"
    ]  # fmt: skip


def test_memory_that_is_not_filled_first_changes_nothing(cohort, accelerator, monkeypatch):
    assert torch.are_deterministic_algorithms_enabled()
    unfilled, _, _ = fit(cohort, accelerator)
    monkeypatch.setattr(torch.utils.deterministic, "fill_uninitialized_memory", True)
    filled, _, _ = fit(cohort, accelerator)
    assert same(unfilled, filled)


def test_what_is_trained_on_is_learned(cohort, accelerator):
    # More epochs than elsewhere: the ranking loss grows at first, with the embeddings.
    _, _, log = fit(
        cohort, accelerator, TrainingConfig(epochs=12, batch_size=16, learning_rate=3e-3)
    )
    assert log.epochs[-1]["train_loss"] < 0.9 * log.epochs[0]["train_loss"]


class StopError(Exception):
    """Raised where a kill is simulated."""


def test_a_stopped_training_goes_on_to_the_same_end(cohort, accelerator, tmp_path, monkeypatch):
    whole, _, whole_log = fit(cohort, accelerator)
    state = tmp_path / "state"
    from forget_mi.training import loop as training

    calls = 0
    real = training.predict

    def stop_in_second_epoch(*args, **kwargs):
        nonlocal calls
        calls += 1
        if calls == 2:
            raise StopError
        return real(*args, **kwargs)

    monkeypatch.setattr(training, "predict", stop_in_second_epoch)
    with pytest.raises(StopError):
        fit(cohort, accelerator, state_folder=state)
    monkeypatch.setattr(training, "predict", real)
    resumed, _, log = fit(cohort, make_accelerator(DeviceConfig(device="cpu")), state_folder=state)
    assert same(whole, resumed)
    assert log.epochs == whole_log.epochs


KILLED = """
import sys
sys.path[:0] = {tests!r}
from conftest import *
from forget_mi.data.cohorts import synthetic
settings = synthetic.SyntheticConfig(patients=40, image_size=32, images_per_patient=3)
cohort = split_by_patient(synthetic.load(settings), SplitConfig(test=0.25, validation=0.2))
from test_training import fit, SETTINGS
from pathlib import Path
import torch
torch.set_num_threads(1)
model, _, _ = fit(cohort, make_accelerator(DeviceConfig(device="cpu")),
                      TrainingConfig(epochs=12, batch_size=16),
                  state_folder=Path({state!r}))
torch.save(model.state_dict(), {out!r})
"""


def test_kill_9_and_resume_gives_the_same_weights(tmp_path):
    here = Path(__file__).parent
    tests = [str(here.parent), str(here)]

    def command(state, out):
        return [
            sys.executable,
            "-c",
            KILLED.format(tests=tests, state=str(tmp_path / state), out=str(tmp_path / out)),
        ]

    subprocess.run(command("whole", "whole.pt"), check=True)
    victim = subprocess.Popen(command("state", "killed.pt"))
    deadline = time.monotonic() + 120
    while not (tmp_path / "state" / "log.json").exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    victim.send_signal(signal.SIGKILL)
    victim.wait()
    assert not (tmp_path / "killed.pt").exists()
    assert (tmp_path / "state" / "log.json").exists()
    subprocess.run(command("state", "killed.pt"), check=True)
    whole, resumed = (
        torch.load(tmp_path / name, weights_only=True) for name in ("whole.pt", "killed.pt")
    )
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


def test_a_state_of_other_settings_is_refused(cohort, accelerator, tmp_path):
    fit(cohort, accelerator, TrainingConfig(epochs=1, batch_size=16), state_folder=tmp_path / "s")
    with pytest.raises(InputError, match="half-finished training with other settings"):
        fit(
            cohort, accelerator, TrainingConfig(epochs=2, batch_size=8), state_folder=tmp_path / "s"
        )


def test_a_diverging_training_stops(cohort, accelerator):
    tokenizer = fit(cohort, accelerator, TrainingConfig(epochs=1))[1]
    rows = rows_of(cohort, "train")
    examples = make_examples(cohort, rows, tokenizer, 24)
    model = build_model(TINY_MODEL, 4, len(tokenizer), seed=0)

    with torch.no_grad():
        model.image_tower.head.weight.fill_(float("inf"))
    with pytest.raises(FloatingPointError, match="the loss is"):
        train(model, examples, examples, SETTINGS, seed=0, accelerator=accelerator, progress=False)


def test_every_record_is_seen_once_an_epoch_in_an_order_of_the_seed(unlearning_data):
    examples = unlearning_data.retain
    orders = [torch.cat([b["index"] for b in make_loader(examples, 16, seed=s)]) for s in (1, 1, 2)]
    assert torch.equal(orders[0], orders[1])
    assert not torch.equal(orders[0], orders[2])
    assert np.array_equal(np.sort(orders[0]), np.arange(len(examples)))


def test_a_batch_holds_what_the_cohort_holds(cohort, unlearning_data):
    batch = unlearning_data.forget.__getitems__([2, 0])
    row = unlearning_data.forget.rows[2].item()
    assert torch.equal(batch["images"][0], torch.from_numpy(cohort.images[row] / np.float32(255)))
    assert batch["labels"][0] == cohort.table.label[row]
    text = unlearning_data.tokenizer.decode(batch["input_ids"][0], skip_special_tokens=True)
    assert cohort.report_of(row).lower().split()[0].strip(".,") in text


def test_bf16_autocast_trains_to_about_the_same(cohort):
    plain, _, a = fit(cohort, make_accelerator(DeviceConfig(device="cpu", precision="fp32")))
    half, _, b = fit(cohort, make_accelerator(DeviceConfig(device="cpu", precision="bf16")))
    assert next(half.parameters()).dtype == torch.float32
    assert b.epochs[-1]["train_loss"] == pytest.approx(a.epochs[-1]["train_loss"], rel=0.1)
    assert not same(plain, half)


def test_channels_last_trains_to_the_same(cohort, tmp_path):
    settings, wide = TrainingConfig(epochs=2), replace(TINY_MODEL, image_channels=(16, 16, 16))
    accelerator = make_accelerator(DeviceConfig(device="cpu", channels_last="off"))
    plain, tokenizer, a = fit(cohort, accelerator, settings, model=wide)
    accelerator = make_accelerator(DeviceConfig(device="cpu"))
    model, _, b = fit(cohort, accelerator, settings, model=wide, state_folder=tmp_path / "state")
    assert b.epochs[-1]["train_loss"] == pytest.approx(a.epochs[-1]["train_loss"], rel=1e-3)
    for each, wanted in ((plain, False), (model, True)):
        weight = each.image_tower.stages[0][0].conv2.weight
        assert weight.is_contiguous(memory_format=torch.channels_last) == wanted
    # What a run was killed with, and what it leaves, can be read again.
    resumed, _, _ = fit(cohort, accelerator, settings, model=wide, state_folder=tmp_path / "state")
    assert same(resumed, model)
    save_checkpoint(tmp_path / "model", model, tokenizer, {})
    loaded = load_checkpoint(tmp_path / "model").model
    assert same(loaded, model)
    # To the last digit: it says so where the trained one does.
    everyone = make_examples(cohort, np.arange(len(cohort)), tokenizer, wide.max_tokens)
    said = [predict(each, everyone, accelerator).image_logits for each in (loaded, model)]
    assert np.array_equal(*said)


def test_channels_last_is_left_out_where_it_would_crash_or_slow_down():
    def chosen(model, choice="auto") -> bool:
        model = to_device(model, make_accelerator(DeviceConfig(device="cpu", channels_last=choice)))
        weight = next(
            m.weight
            for m in model.modules()
            if isinstance(m, torch.nn.Conv2d) and m.in_channels > 1
        )
        return (
            weight.is_contiguous(memory_format=torch.channels_last) and not weight.is_contiguous()
        )

    sizes = {"small": NAMED["small"].image_channels, "paper": NAMED["paper"].image_channels}
    small, paper = (lambda channels=c: ImageTower(channels, 2, 1, 2) for c in sizes.values())
    assert chosen(small())
    assert chosen(small(), "on")
    assert not chosen(small(), "off")
    assert not chosen(paper())
    with pytest.raises(
        InputError, match=r"channels_last = 'on': stages\.0\.0\.downsample\.0 is a strided 1x1"
    ):
        chosen(paper(), "on")
    assert not chosen(torchvision.models.resnet18())
    assert chosen(torchvision.models.resnet18(), "on")


def test_compiled_steps_train_to_the_same(cohort, monkeypatch, tmp_path):
    seen = []
    compiled = torch.compile
    monkeypatch.setattr(
        torch, "compile", lambda model, **how: seen.append(how) or compiled(model, **how)
    )
    plain, _, a = fit(
        cohort, make_accelerator(DeviceConfig(device="cpu")), TrainingConfig(epochs=1)
    )
    assert seen == []
    accelerator = make_accelerator(DeviceConfig(device="cpu", compile="aot_eager"))
    model, _, b = fit(
        cohort, accelerator, TrainingConfig(epochs=1), state_folder=tmp_path / "state"
    )
    assert seen[0]["backend"] == "aot_eager"
    assert b.epochs[-1]["train_loss"] == pytest.approx(a.epochs[-1]["train_loss"], rel=1e-3)
    assert list(model.state_dict()) == list(plain.state_dict())
    resumed, _, _ = fit(
        cohort, accelerator, TrainingConfig(epochs=1), state_folder=tmp_path / "state"
    )
    assert same(resumed, model)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_cuda_where_there_is_none_stops():
    with pytest.raises(InputError, match=r"device\.device = 'cuda': no CUDA device"):
        make_accelerator(DeviceConfig(device="cuda"))


def test_models_are_trained_side_by_side_only_where_cores_are_left(monkeypatch):
    monkeypatch.setenv("LOKY_MAX_CPU_COUNT", "4")
    assert parallel_models(DeviceConfig(device="cpu")) == 1
    assert parallel_models(DeviceConfig(device="cpu", threads=1)) == min(4, joblib.cpu_count())
    assert parallel_models(DeviceConfig(device="cpu", threads=64)) == 1
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert parallel_models(DeviceConfig(device="cpu", threads=1)) == 1


def test_side_by_side_gives_what_one_after_another_gives(monkeypatch):
    monkeypatch.setenv("LOKY_MAX_CPU_COUNT", "2")
    settings = DeviceConfig(device="cpu", threads=1)
    assert run_parallel(math.sqrt, [4, 9, 16], settings, progress=False) == [2, 3, 4]
    with pytest.raises(ValueError, match=r"math domain|nonnegative"):
        run_parallel(math.sqrt, [4, -1], settings, progress=False)
