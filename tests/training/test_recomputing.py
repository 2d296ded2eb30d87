"""Activations that are computed again: the same numbers in less memory."""

import copy

import pytest
import torch
from conftest import TINY_MODEL
from torch import nn

from forget_mi.errors import InputError
from forget_mi.models.build import build_model
from forget_mi.models.config import ModelConfig
from forget_mi.training.config import DeviceConfig, TrainingConfig
from forget_mi.training.devices import make_accelerator
from forget_mi.training.loop import train
from forget_mi.training.memory import estimate_step
from forget_mi.training.recomputing import recomputed
from forget_mi.unlearning import get_method


@pytest.fixture
def with_dropout(original):
    """The original, its text tower with dropout."""
    model = copy.deepcopy(original[0])
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.2
    return model


def trained(model, data, accelerator):
    settings = TrainingConfig(epochs=2, batch_size=16)
    how = {"seed": 1, "accelerator": accelerator, "progress": False}
    train(model, data.retain, data.validation, settings, **how)
    return model


def unlearned(method):
    def run(model, data, accelerator):
        settings = get_method(method).Config(epochs=2, batch_norm="train")
        how = {"seed": 1, "accelerator": accelerator, "progress": False}
        return get_method(method).unlearn(model, data, settings, **how)[0]

    return run


@pytest.mark.parametrize(
    "work",
    [trained, unlearned("held_out_targets"), unlearned("forget_mi")],
    ids=["train", "held_out_targets", "forget_mi"],
)
def test_no_number_changes(work, with_dropout, unlearning_data):
    """Weights and batch normalisation's statistics, to the last bit."""
    plain, sparing = (
        work(
            copy.deepcopy(with_dropout),
            unlearning_data,
            make_accelerator(DeviceConfig(device="cpu", recompute=recompute)),
        ).state_dict()
        for recompute in (False, True)
    )
    assert any(name.endswith("running_mean") for name in plain)
    assert [name for name in plain if not torch.equal(plain[name], sparing[name])] == []
    assert plain.keys() == sparing.keys()


def test_blocks_run_twice_with_it_and_are_as_before_afterwards(with_dropout):
    runs = []
    model = with_dropout.train()
    block = model.image_tower.blocks()[0]
    block.conv1.register_forward_hook(lambda *_: runs.append(1))
    images, tokens = torch.rand(2, 1, 32, 32), torch.ones(2, 8, dtype=torch.long)
    plain = block.forward
    with recomputed(model, make_accelerator(DeviceConfig(device="cpu", recompute=True))):
        model(images, tokens, tokens).image_logits.sum().backward()
        assert len(runs) == 2
        with torch.no_grad():
            model(images, tokens, tokens)
        assert len(runs) == 3
    assert block.forward == plain
    assert "forward" not in vars(block)


def test_less_is_kept():
    plain, sparing = (estimate_step(ModelConfig(), 64, recompute=each) for each in (False, True))
    assert sparing.record < 0.8 * plain.record
    assert sparing.parameters == plain.parameters


def test_where_it_cannot_work_it_is_refused():
    with pytest.raises(InputError, match=r"not together with device\.compile = 'inductor'"):
        make_accelerator(DeviceConfig(device="cpu", recompute=True, compile="inductor"))
    model = build_model(TINY_MODEL, 2, 300, seed=0)
    model.image_tower.stages = nn.ModuleList()
    accelerator = make_accelerator(DeviceConfig(device="cpu", recompute=True))
    with (
        pytest.raises(InputError, match=r"device\.recompute = true: the blocks of ImageTower"),
        recomputed(model, accelerator),
    ):
        pass
