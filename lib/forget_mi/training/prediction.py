"""Predictions: one forward pass over some records, which feeds every measure and attack."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from accelerate import Accelerator

from forget_mi.data import Examples, make_loader, to_device_ahead
from forget_mi.models import ImageTextModel
from forget_mi.training.devices import to_device

Tower = Literal["fused", "image", "text"]


TOWERS: tuple[Tower, ...] = ("fused", "image", "text")


@dataclass(frozen=True)
class Predictions:
    """A model's outputs for some examples: one forward pass that feeds every measure and attack.

    image_logits, text_logits (n, classes); image_embedding, text_embedding (n, width); labels,
    patients (n); all float32 or int64 numpy arrays. The logits and embedding of a tower that is not
    there are (n, 0).
    """

    image_logits: np.ndarray
    text_logits: np.ndarray
    image_embedding: np.ndarray
    text_embedding: np.ndarray
    labels: np.ndarray
    patients: np.ndarray

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def towers(self) -> tuple[Tower, ...]:
        """TOWERS, or what there is of them."""
        there = {"image": self.image_logits.shape[-1] > 0, "text": self.text_logits.shape[-1] > 0}
        return tuple(tower for tower in TOWERS if there.get(tower, True))

    def probabilities(self, tower: Tower) -> np.ndarray:
        """(n, classes), rows summing to 1: one tower's softmax, or for 'fused' the mean of both."""
        return np.mean([softmax(logits) for logits in self.logits(tower)], 0)

    def logits(self, tower: Tower) -> list[np.ndarray]:
        """The logits behind a prediction: one tower's, or for 'fused' those of the towers that are
        there."""
        own = {"image": self.image_logits, "text": self.text_logits}
        return [own[name] for name in self.towers[1:] if tower in ("fused", name)]

    def cross_entropy(self, tower: Tower) -> np.ndarray:
        """-log p of each record's label (n), in nats, of one tower or of the fused prediction."""
        p = self.probabilities(tower)[np.arange(len(self)), self.labels]
        return -np.log(np.maximum(p, np.finfo(np.float64).tiny))

    def select(self, index: np.ndarray) -> Predictions:
        """The predictions of some of the examples."""
        return Predictions(*(getattr(self, name)[index] for name in self.__dataclass_fields__))


def softmax(logits: np.ndarray) -> np.ndarray:
    """Row-wise softmax in float64: in float32 a memorised record's loss would round to 0."""
    shifted = logits.astype(np.float64) - logits.max(-1, keepdims=True)
    exponential = np.exp(shifted)
    return exponential / exponential.sum(-1, keepdims=True)


# Of an evaluation batch: at most so many records and, by kind of device, so many pixels (on a card
# 64 records of 512 px or 4 of 2048; on a CPU, where larger batches are slower, 4 or 1).
MAX_RECORDS = 128


MAX_PIXELS = {"cpu": 2**20, "cuda": 2**24}


def evaluation_batch_size(examples: Examples, device: torch.device) -> int:
    """How many records an evaluation batch takes, so that its memory does not grow with the images'
    size."""
    pixels = int(np.prod(examples.images.shape[2:]))
    return max(1, min(MAX_RECORDS, MAX_PIXELS[device.type] // max(1, pixels)))


@torch.no_grad()
def predict(model: ImageTextModel, examples: Examples, accelerator: Accelerator) -> Predictions:
    """One pass over the examples with the model where the accelerator has it, in evaluation mode
    (put back afterwards)."""
    to_device(model, accelerator)
    training = model.training
    model.eval()
    columns: list[torch.Tensor] = []
    done = 0
    loader = make_loader(examples, evaluation_batch_size(examples, accelerator.device))
    for batch in to_device_ahead(loader, accelerator):
        with accelerator.autocast():
            output = model(batch["images"], batch["input_ids"], batch["attention_mask"])
        # Into tensors that are there from the start: small ones of each batch, kept between the
        # large ones that come and go, would leave holes in the heap, and the peak would grow with
        # their number. They stay on the device, so that no batch is waited for.
        columns = columns or [
            torch.empty(len(examples), t.shape[1], device=t.device) for t in output
        ]
        for column, t in zip(columns, output, strict=True):
            column[done : done + len(t)] = t
        done += len(batch["labels"])
    model.train(training)
    return Predictions(
        *(column.cpu().numpy() for column in columns),
        labels=examples.labels.numpy(),
        patients=examples.patients.numpy(),
    )
