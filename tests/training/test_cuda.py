"""What only a card can show; `make gpu` runs it there. Skipped on machines without one."""

import copy

import numpy as np
import pytest
import torch
from conftest import differs, weights

from forget_mi.data import loaders
from forget_mi.runs import parallel_models, run_parallel
from forget_mi.training.config import DeviceConfig, TrainingConfig
from forget_mi.training.devices import make_accelerator
from forget_mi.training.loop import train
from forget_mi.training.prediction import predict
from forget_mi.unlearning import forget_mi, held_out_targets

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no card on this machine")

TRAINING = TrainingConfig(epochs=2, batch_size=8)


def chain(original, data, **settings) -> tuple[dict, list[float], np.ndarray]:
    """Weights, losses and predictions of a training and an unlearning after it."""
    accelerator = make_accelerator(DeviceConfig(device="cuda", **settings))
    model = copy.deepcopy(original[0])
    how = {"seed": 0, "accelerator": accelerator, "progress": False}
    log = train(model, data.retain, data.validation, TRAINING, **how)
    unlearned, steps = held_out_targets.unlearn(
        model, data, held_out_targets.Config(epochs=2), **how
    )
    seen = predict(unlearned, data.validation, accelerator)
    losses = [row["train_loss"] for row in log.epochs] + [row["total"] for row in steps.epochs]
    state = {name: t.cpu() for name, t in weights(unlearned).items()}
    return state, losses, seen.image_logits


@pytest.mark.parametrize(
    "settings", [{"read_ahead": "off", "cohort_on": "host"}, {"cohort_on": "host"}, {}]
)
def test_where_records_lie_and_who_reads_them_changes_nothing(settings, original, unlearning_data):
    expected = chain(original, unlearning_data, cohort_on="device", precision="fp32")
    found = chain(original, unlearning_data, precision="fp32", **settings)
    np.testing.assert_allclose(found[1], expected[1], rtol=1e-5)
    np.testing.assert_allclose(found[2], expected[2], atol=1e-3)


def test_the_card_says_what_the_cpu_says(original, unlearning_data):
    accelerator = make_accelerator(DeviceConfig(device="cpu"))
    model, how = copy.deepcopy(original[0]), {"seed": 0, "accelerator": accelerator}
    log = train(
        model, unlearning_data.retain, unlearning_data.validation, TRAINING, progress=False, **how
    )
    on_card = chain(original, unlearning_data, precision="fp32")[1]
    np.testing.assert_allclose(on_card[:2], [row["train_loss"] for row in log.epochs], rtol=0.02)


def test_bf16_is_near_fp32(original, unlearning_data):
    found = [chain(original, unlearning_data, precision=p)[1] for p in ("fp32", "bf16")]
    np.testing.assert_allclose(*found, rtol=0.1)


def test_the_same_seed_gives_the_same_weights(original, unlearning_data):
    first, second = (chain(original, unlearning_data)[0] for _ in range(2))
    assert not differs(first, second)


def test_batches_come_in_order_and_whole_while_the_card_works(unlearning_data):
    accelerator = make_accelerator(DeviceConfig(device="cuda"))
    examples = unlearning_data.retain
    loader = loaders.make_loader(examples, 4)
    busy = torch.randn(2048, 2048, device="cuda")
    images, order = [], []
    for batch in loaders.device_loader(loader, accelerator):
        for _ in range(20):  # the next copies run beside this
            busy = busy @ busy / busy.norm()
        images.append(batch["images"])
        order.append(batch["index"])
    assert torch.equal(torch.cat(images).cpu(), examples.float_images())
    assert torch.cat(order).tolist() == list(range(len(examples)))


def test_a_step_makes_nobody_wait(original, unlearning_data):
    """PyTorch itself says where the host waits for the card."""
    accelerator = make_accelerator(DeviceConfig(device="cuda", deterministic=False))
    settings = forget_mi.Config(epochs=2, batch_size=3, retain_batch=8, stop="never")
    how = {"seed": 0, "accelerator": accelerator, "progress": False}
    forget_mi.unlearn(original[0], unlearning_data, settings, **how)  # what is loaded once

    from forget_mi.unlearning import loop

    waits, plain = [], loop.forward_step

    def watched(*args):
        torch.cuda.set_sync_debug_mode("error")
        try:
            return plain(*args)
        finally:
            torch.cuda.set_sync_debug_mode("default")
            waits.append(1)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "forward_step", watched)
        forget_mi.unlearn(original[0], unlearning_data, settings, **how)
    assert waits


def test_kernels_can_be_recorded(original, unlearning_data):
    plain = chain(original, unlearning_data, precision="fp32")[1]
    recorded = chain(original, unlearning_data, precision="fp32", compile="cudagraphs")[1]
    np.testing.assert_allclose(recorded, plain, rtol=1e-3)


def on_card(seed: int) -> float:
    torch.manual_seed(seed)
    x = torch.randn(64, 64, device="cuda")
    return float((x @ x).sum())


def test_models_side_by_side_say_what_they_say_alone():
    alone = [on_card(seed) for seed in range(4)]
    settings = DeviceConfig(device="cuda", models=2)
    assert parallel_models(settings) == 2
    np.testing.assert_allclose(run_parallel(on_card, range(4), settings, progress=False), alone)
