"""(b): our training loop against a bare PyTorch loop over the same tensors, validation after each
epoch in both."""

from __future__ import annotations

import copy
from functools import partial

import torch
from measure import Row, alternately
from unlearning_step import setting

from forget_mi.data.batches import Examples
from forget_mi.losses import training_loss
from forget_mi.models.config import NAMED
from forget_mi.models.image_text import ImageTextModel
from forget_mi.training.config import DeviceConfig, TrainingConfig
from forget_mi.training.devices import make_accelerator, to_device
from forget_mi.training.loop import train

# Enough that what a training pays once (a collection of garbage, a quarter of a second) is not
# taken for an epoch's.
EPOCHS = 6


def bare(model: ImageTextModel, examples: Examples, validation: Examples) -> None:
    """What a script would do, with all images as floats and all tokens as int64 in memory, reports
    cut to the longest of a batch, and the model in the same memory format."""
    model = to_device(copy.deepcopy(model), make_accelerator())
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, fused=True)
    images = torch.from_numpy(examples.images).float() / 255
    held_out = torch.from_numpy(validation.images).float() / 255
    input_ids, attention_mask = examples.input_ids.long(), examples.attention_mask.long()
    for _ in range(EPOCHS):
        model.train()
        for index in torch.randperm(len(examples)).split(32):
            mask = attention_mask[index]
            longest = mask.sum(1).max()
            output = model(images[index], input_ids[index, :longest], mask[:, :longest])
            loss = training_loss(output, examples.labels[index], examples.studies[index])
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
        model.eval()
        with torch.no_grad():
            model(held_out, validation.input_ids.long(), validation.attention_mask.long())


def ours(
    model: ImageTextModel,
    examples: Examples,
    validation: Examples,
    threads: int | None = None,
    seed: int = 0,
) -> None:
    """The one loop."""
    settings = TrainingConfig(epochs=EPOCHS, batch_size=32)
    accelerator = make_accelerator(DeviceConfig(threads=threads))
    train(
        copy.deepcopy(model),
        examples,
        validation,
        settings,
        seed=seed,
        accelerator=accelerator,
        progress=False,
    )


def rows() -> list[Row]:
    """On the demo's training set."""
    model, data = setting(NAMED["small"], image_size=64, patients=400, fraction=0.1)
    work = (partial(each, model, data.retain, data.validation) for each in (ours, bare))
    return [Row("b", "training epoch over a bare loop", *alternately(*work, rounds=5))]
