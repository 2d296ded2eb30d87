"""Devices without a card: what is decided about one, and what is said when it fails."""

from dataclasses import replace

import pytest
import torch

from forget_mi.errors import InputError
from forget_mi.models.config import NAMED, ModelConfig
from forget_mi.runs import memory_table, parallel_models
from forget_mi.runs.profiles import load_profile
from forget_mi.training import devices
from forget_mi.training.config import DeviceConfig
from forget_mi.training.devices import card_errors, make_accelerator
from forget_mi.training.memory import StepMemory, estimate_step
from forget_mi.training.recomputing import recomputed


@pytest.fixture
def card(monkeypatch):
    """A card of 24 GiB, as far as questions go, on a machine of 16 cores."""

    class Properties:
        name, total_memory = "Made-up 24", 24 * 2**30

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: Properties)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda *_: Properties.name)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (2 * 2**30, 24 * 2**30))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda _: 15 * 2**30)
    monkeypatch.setattr("forget_mi.runs.parallel.cpu_count", lambda: 16)
    return Properties


def test_small_models_share_a_card(card):
    assert parallel_models(DeviceConfig()) == 3  # of 8 GiB each
    card.total_memory = 80 * 2**30
    assert parallel_models(DeviceConfig()) == 8
    assert parallel_models(DeviceConfig(models=2)) == 2
    assert parallel_models(DeviceConfig(device="cpu", threads=4)) == 4


def test_processes_of_one_model_do_not_share(card, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert parallel_models(DeviceConfig()) == 1


def test_bf16_is_refused_where_the_card_has_none(card, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: False)
    with pytest.raises(InputError, match=r"device\.precision = 'bf16': Made-up 24 has no bf16"):
        make_accelerator(DeviceConfig(precision="bf16"))


def test_graphs_of_kernels_are_refused_where_there_are_none():
    with pytest.raises(InputError, match=r"device\.compile = 'cudagraphs': there are no kernels"):
        make_accelerator(DeviceConfig(device="cpu", compile="cudagraphs"))


def test_it_is_said_why_there_is_no_cuda(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.version, "cuda", None)
    with pytest.raises(InputError, match=r"device\.device = 'cuda': torch .* built without CUDA"):
        make_accelerator(DeviceConfig(device="cuda"))

    def too_old():
        raise RuntimeError("The NVIDIA driver on your system is too old (found version 11000).\nUp")

    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch.cuda, "init", too_old)
    with pytest.raises(InputError, match=r"driver on your system is too old") as raised:
        make_accelerator(DeviceConfig(device="cuda"))
    assert "\n" not in str(raised.value)
    monkeypatch.setattr(torch.cuda, "init", lambda: None)
    assert devices.why_no_cuda() == "no CUDA device is visible"


def test_too_little_memory_names_the_parameter_that_helps(card):
    class Accelerator:
        device, parts = torch.device("cuda"), 2

    with pytest.raises(InputError) as raised, card_errors(Accelerator):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 4 GiB.\nMore words")
    assert str(raised.value) == (
        "parameter device.parts = 2: a step does not fit into the card's memory of 24.0 GiB, of "
        "which other processes hold 7.0; 4 parts take about half as much, and so may "
        "device.recompute = true, for more time (CUDA out of memory. Tried to allocate 4 GiB.)"
    )


def test_a_card_that_fails_is_one_line_and_other_errors_stay(accelerator):
    failed = r"the card failed \(CUDA error: device lost\)"
    with pytest.raises(InputError, match=failed), card_errors(accelerator):
        raise RuntimeError("CUDA error: device lost\nCompile with TORCH_USE_CUDA_DSA")
    with pytest.raises(RuntimeError, match="shapes differ"), card_errors(accelerator):
        raise RuntimeError("shapes differ")
    with pytest.raises(RuntimeError), card_errors(accelerator):
        raise RuntimeError


def test_a_step_that_runs_out_of_memory_says_so(
    original, unlearning_data, accelerator, monkeypatch
):
    from forget_mi.unlearning import fine_tune

    def full(*_):
        raise torch.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr(type(original[0]), "forward", full)
    with pytest.raises(InputError, match=r"device\.parts = 1: .*2 parts"):
        fine_tune.unlearn(
            original[0], unlearning_data, fine_tune.Config(), seed=0, accelerator=accelerator,
            progress=False,
        )  # fmt: skip


def test_memory_is_counted_by_hand():
    step = StepMemory(parameters=1000, record=50, once=7)
    assert step.training(3) == 16_000 + 7 + 150
    assert step.unlearning(3) == 20_000 + 7 + 150
    assert step.most_records(16_007 + 149) == 2
    assert step.most_records(100) == 0
    assert step.parts(5, 16_007 + 100) == 3
    assert step.parts(5, 16_007 + 49) is None


def test_a_record_takes_more_the_larger_it_is_and_less_in_bf16():
    settings = ModelConfig(image_channels=(16, 16, 32), text_width=32, text_layers=1, text_heads=2)
    small, large = (estimate_step(settings, pixels) for pixels in (64, 128))
    assert small.parameters == large.parameters
    assert 2 * small.record < large.record
    assert estimate_step(settings, 64, bf16=False).record > small.record


@pytest.mark.parametrize("recompute", [False, True])
def test_the_estimate_is_near_what_a_step_takes(recompute):
    """What a training step of 16 records allocates at its peak, by PyTorch's own profiler."""
    from forget_mi.losses import training_loss
    from forget_mi.models.build import build_model

    settings = ModelConfig(
        image_channels=(16, 16, 32, 32), text_width=32, text_layers=1, text_heads=2, dropout=0.0
    )
    records, pixels = 16, 128
    estimate = estimate_step(settings, pixels, bf16=False, recompute=recompute)
    accelerator = make_accelerator(DeviceConfig(device="cpu", recompute=recompute))
    model = build_model(settings, 4, settings.text_vocabulary, seed=0).train()
    tokens = torch.zeros(records, settings.max_tokens, dtype=torch.long)
    labels = torch.zeros(records, dtype=torch.long)
    with torch.profiler.profile(profile_memory=True) as profile, recomputed(model, accelerator):
        images = torch.zeros(records, 1, pixels, pixels)
        loss = training_loss(model(images, tokens, torch.ones_like(tokens)), labels, labels)
        loss.backward()
    held, peak = 0, 0
    for event in profile.profiler.kineto_results.events():
        if event.name() == "[memory]":
            held += event.nbytes()
            peak = max(peak, held)
    activations = records * estimate.record + estimate.once
    assert activations == pytest.approx(peak, rel=0.25)


def test_the_table_says_into_how_many_parts_a_step_must_be_cut(card):
    overrides = {"cohort.root": ".", "model.name": "small", "model.max_tokens": 32}
    table = memory_table(load_profile("mimic-cxr", overrides), 64)
    assert table.card.unique().tolist() == ["16 GB", "24 GB", "80 GB", "Made-up 24"]
    assert table.step.unique().tolist() == ["training", "unlearning"]
    assert set(table["device.parts"]) == {1}
    assert table.records.tolist() == [4, 32] * 4
    with pytest.raises(InputError, match="--image-size"):
        memory_table(replace(load_profile("demo"), cohort={"source": "custom"}))


def test_the_paper_fits_on_a_small_card_in_parts():
    step = estimate_step(NAMED["paper"], 2048)
    assert step.parts(32, 0.9 * 16 * 2**30, unlearning=True) == 1
    assert step.parts(32, 0.9 * 6 * 2**30, unlearning=True) == 2
