"""(a), each of the other ways to make a step cheaper, before and after: what F_og said kept from an earlier run, the
frozen layers of CF-k left out, channels innermost, and torch.compile."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from unittest.mock import patch

import torch
from measure import Row, alternately
from unlearning_step import setting

from forget_mi.devices import DeviceConfig, make_accelerator, placed
from forget_mi.losses import training_loss
from forget_mi.models import NAMED
from forget_mi.training import make_optimizer
from forget_mi.unlearning import cf_k, forget_mi, layers
from forget_mi.unlearning.kept import KeptOutputs

STEPS = 12


def rows() -> list[Row]:
    """On the demo's model and request."""
    model, data = setting(NAMED["small"], image_size=64, patients=400, fraction=0.1)
    kept = KeptOutputs(Path("never saved"), "")
    asking, reading = (partial(forget, each, model) for each in (data, replace(data, kept=kept)))
    found = [Row("a", "forget_mi, F_og asked anew over read from an earlier run", *alternately(asking, reading, 5))]
    for k in (1, 2):
        whole, spared = (partial(last_layers, model, data, k, most) for most in (0, layers.MOST_BYTES))
        found.append(Row("a", f"CF-k, k = {k}: all layers over the trained ones", *alternately(whole, spared, 5)))
    plain = stepping(model, data, DeviceConfig())
    for name, options in (("channels last", {"channels_last": "on"}), ("torch.compile", {"compile": "inductor"})):
        faster = stepping(model, data, DeviceConfig(**options))
        found.append(Row("a", f"training step, plain over {name}", *alternately(plain, faster, 9)))
    return found


def forget(data, model) -> None:
    """Four passes of Forget-MI."""
    settings = forget_mi.Config(epochs=4, stop="never")
    forget_mi.unlearn(model, data, settings, seed=0, accelerator=make_accelerator(), progress=False)


def last_layers(model, data, k: int, most_bytes: int) -> None:
    """Three passes of CF-k, keeping so many bytes of what the frozen layers say."""
    settings = cf_k.Config(k=k, epochs=3)
    with patch.object(layers, "MOST_BYTES", most_bytes):
        cf_k.unlearn(model, data, settings, seed=0, accelerator=make_accelerator(), progress=False)


def stepping(model, data, settings: DeviceConfig) -> Callable[[], None]:
    """STEPS training steps on the same batches each time, after the model has been prepared (and compiled) once."""
    accelerator = make_accelerator(settings)
    mine = placed(copy.deepcopy(model), accelerator).train()
    wrapped, optimizer = accelerator.prepare(mine, make_optimizer(mine, 1e-4, 0.0))
    batches = [data.retain.__getitems__(index) for index in torch.arange(32 * STEPS).split(32)]

    def steps() -> None:
        for batch in batches:
            output = wrapped(batch["images"], batch["input_ids"], batch["attention_mask"])
            training_loss(output, batch["labels"], batch["studies"]).backward()
            optimizer.step()
            optimizer.zero_grad()

    return steps
