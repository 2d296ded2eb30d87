"""A step never asks a device for a value: on a card the host would wait there for every kernel
before it.

A card is not needed: what would wait is counted by name, in the thread that steps, while another
reads the batches. The count must not grow with the number of steps.
"""

import copy
import threading
from collections import Counter

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from forget_mi.config import build
from forget_mi.training.config import DeviceConfig, TrainingConfig
from forget_mi.training.devices import make_accelerator
from forget_mi.training.loop import train
from forget_mi.training.prediction import predict
from forget_mi.unlearning import METHODS, get_method

# Operations whose result the host needs: a number, or how large the output is.
WAITING = ("_local_scalar_dense", "nonzero", "masked_select", "_unique2", "is_nonzero")
METHODS_THAT_READ = ("cpu", "numpy", "tolist")


class HostReads(TorchDispatchMode):
    """Counts, in this thread, what reads tensors."""

    def __init__(self):
        super().__init__()
        self.counted = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        if name in WAITING:
            self.counted[name] += 1
        # A boolean index is a nonzero in disguise.
        if name == "index" and any(t is not None and t.dtype == torch.bool for t in args[1]):
            self.counted["boolean index"] += 1
        return func(*args, **(kwargs or {}))

    def __enter__(self):
        here = threading.get_ident()
        self._patch = pytest.MonkeyPatch()
        for name in METHODS_THAT_READ:
            plain = getattr(torch.Tensor, name)

            def counting(tensor, *args, _name=name, _plain=plain, **kwargs):
                if threading.get_ident() == here:
                    self.counted[_name] += 1
                return _plain(tensor, *args, **kwargs)

            self._patch.setattr(torch.Tensor, name, counting)
        return super().__enter__()

    def __exit__(self, *args):
        self._patch.undo()
        return super().__exit__(*args)


def reads(work) -> Counter:
    with HostReads() as mode:
        work()
    return mode.counted


@pytest.fixture
def ahead():
    return make_accelerator(DeviceConfig(device="cpu", read_ahead="on"))


def test_a_read_is_counted():
    t = torch.arange(4.0)
    assert reads(lambda: t.sum().item())["_local_scalar_dense"] == 1
    assert reads(lambda: bool((t > 1).any()))["_local_scalar_dense"] == 1
    assert reads(lambda: t[t > 1])["boolean index"] == 1
    assert reads(lambda: t.cpu())["cpu"] == 1
    assert not reads(lambda: t[torch.tensor([1, 2])] + 1)


def test_training_reads_once_an_epoch_whatever_its_steps(original, unlearning_data, ahead):
    def an_epoch(batch_size):
        settings = TrainingConfig(epochs=1, batch_size=batch_size)
        some = unlearning_data.retain.select(range(24))
        model = copy.deepcopy(original[0])
        how = {"seed": 0, "accelerator": ahead, "progress": False}
        return reads(lambda: train(model, some, unlearning_data.validation, settings, **how))

    assert an_epoch(12) == an_epoch(2)


def test_predictions_are_read_once(original, unlearning_data, ahead, monkeypatch):
    def by(batch_size):
        monkeypatch.setattr(
            "forget_mi.training.prediction.evaluation_batch_size", lambda *_: batch_size
        )
        return reads(lambda: predict(original[0], unlearning_data.forget, ahead))

    assert by(2) == by(8)


# Those that step: SSD and SalUn's mask measure by batches, and read nothing either.
@pytest.mark.parametrize("method", [name for name in METHODS if name not in ("retrain", "ssd")])
def test_unlearning_reads_once_an_epoch_whatever_its_steps(
    method, original, unlearning_data, ahead
):
    module = get_method(method)

    def an_epoch(batch_size, retain_batch):
        values = {"epochs": 1, "batch_size": batch_size, "retain_batch": retain_batch}
        values |= {"stop": "never", "least_steps": 1, "learning_rate": 1e-4}
        settings = build(module.Config, values, "unlearning")
        how = {"seed": 0, "accelerator": ahead, "progress": False}
        return reads(lambda: module.unlearn(original[0], unlearning_data, settings, **how))

    steps = len(unlearning_data.forget)
    assert steps > 4
    few, many = an_epoch(steps, 32), an_epoch(1, 8)
    assert many == few


def test_ssd_reads_nothing_by_batch(original, unlearning_data, ahead):
    from forget_mi.unlearning import ssd

    def of(batch_size):
        model = copy.deepcopy(original[0])
        return reads(lambda: ssd.importance(model, unlearning_data.retain, batch_size, ahead))

    assert of(4) == of(16)
    assert not of(4)
