"""Measures: AUC and F1 by tower and fused, distance to the retrained model, intervals by patient."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from accelerate import Accelerator

from forget_mi.batches import Examples, make_loader
from forget_mi.devices import placed
from forget_mi.models import ImageTextModel

Tower = Literal["fused", "image", "text"]
TOWERS: tuple[Tower, ...] = ("fused", "image", "text")


@dataclass(frozen=True)
class Predictions:
    """What a model says of some examples: one forward pass that feeds every measure and attack.

    image_logits, text_logits (n, classes); image_embedding, text_embedding (n, width); labels, patients (n); all
    float32 or int64 numpy arrays. The logits and embedding of a tower that is not there are (n, 0).
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
        """The logits behind a prediction: one tower's, or for 'fused' those of the towers that are there."""
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


# Of an evaluation batch: at most so many records and, by kind of device, so many pixels (on a card 64 records of 512 px
# or 4 of 2048; on a CPU, where larger batches are slower, 4 or 1).
MOST_RECORDS = 128
MOST_PIXELS = {"cpu": 2**20, "cuda": 2**24}


def records_at_once(examples: Examples, device: torch.device) -> int:
    """How many records an evaluation batch takes, so that its memory does not grow with the images' size."""
    pixels = int(np.prod(examples.images.shape[2:]))
    return max(1, min(MOST_RECORDS, MOST_PIXELS[device.type] // max(1, pixels)))


@torch.no_grad()
def predict(model: ImageTextModel, examples: Examples, accelerator: Accelerator) -> Predictions:
    """One pass over the examples with the model where the accelerator has it, in evaluation mode (put back
    afterwards)."""
    placed(model, accelerator)
    training = model.training
    model.eval()
    columns: list[torch.Tensor] = []
    done = 0
    for batch in make_loader(examples, records_at_once(examples, accelerator.device)):
        batch = {name: tensor.to(accelerator.device, non_blocking=True) for name, tensor in batch.items()}
        with accelerator.autocast():
            output = model(batch["images"], batch["input_ids"], batch["attention_mask"])
        # Into tensors that are there from the start: small ones of each batch, kept between the large ones that come
        # and go, would leave holes in the heap, and the peak would grow with their number.
        columns = columns or [torch.empty(len(examples), t.shape[1]) for t in output]
        for column, t in zip(columns, output, strict=True):
            column[done : done + len(t)] = t
        done += len(batch["labels"])
    model.train(training)
    return Predictions(
        *(column.numpy() for column in columns), labels=examples.labels.numpy(), patients=examples.patients.numpy()
    )


def binary_auc(positives: np.ndarray, negatives: np.ndarray) -> float:
    """ROC AUC: the chance that a positive scores above a negative, ties counting one half (Mann-Whitney U; equal to
    scikit-learn's roc_auc_score, and fast enough to be bootstrapped). NaN where either is empty, or a score is NaN."""
    n, m = len(positives), len(negatives)
    negatives = np.sort(negatives)
    if n == 0 or m == 0 or np.isnan(negatives[-1]) or np.isnan(positives).any():
        return float("nan")
    below, up_to = (np.searchsorted(negatives, positives, side=side).sum() for side in ("left", "right"))
    return float((below + up_to) / (2 * n * m))


def mean_auc(labels: np.ndarray, probabilities: np.ndarray) -> float:
    """Mean over the classes present of the one-versus-rest ROC AUC; NaN where only one class is present.

    labels (n) int, probabilities (n, classes).
    """
    present = np.unique(labels)
    if len(present) < 2:
        return float("nan")
    return float(np.mean([binary_auc(probabilities[labels == c, c], probabilities[labels != c, c]) for c in present]))


def macro_f1(labels: np.ndarray, probabilities: np.ndarray) -> float:
    """Macro-F1 of the most probable class, averaged over the classes present in the labels (equal to scikit-learn's
    f1_score with these labels): mean of 2 TP / (true + called)."""
    classes = probabilities.shape[1]
    confusion = np.bincount(labels * classes + probabilities.argmax(-1), minlength=classes**2)
    confusion = confusion.reshape(classes, classes)
    true, called = confusion.sum(1), confusion.sum(0)
    f1 = 2 * confusion.diagonal() / np.maximum(true + called, 1)
    return float(f1[true > 0].mean())


def logit_cosine_distance(a: Predictions, b: Predictions) -> float:
    """1 - cosine between two models' logits (both towers side by side) of the same records, averaged; 0 to 2."""
    x, y = (np.concatenate([p.image_logits, p.text_logits], -1).astype(np.float64) for p in (a, b))
    norms = np.linalg.norm(x, axis=-1) * np.linalg.norm(y, axis=-1)
    return float(np.mean(1 - (x * y).sum(-1) / np.maximum(norms, 1e-12)))


@dataclass(frozen=True)
class Measure:
    """A statistic of some records, ready to be evaluated and to be bootstrapped by patient.

    sets: for each set of records it reads (forget, test, ...), the arrays of that set, all of one length; `statistic`
    takes all arrays of all sets in this order and gives a number.
    """

    name: str
    statistic: Callable[..., float]
    sets: Mapping[str, tuple[np.ndarray, ...]]

    def value(self) -> float:
        """The statistic of all records."""
        return float(self.statistic(*(array for arrays in self.sets.values() for array in arrays)))

    def interval(
        self, patients: Mapping[str, np.ndarray], *, draws: int, level: float, seed: int
    ) -> tuple[float, float]:
        """Percentile bootstrap interval (low, high), drawing whole patients of each set with replacement: a patient's
        records are not independent, so they go in or out together.

        patients: the patient of each record of each set. NaN where a set has fewer than two patients, or where the
        statistic is undefined in over half of the draws.
        """
        rng = np.random.default_rng([seed, 13])
        records_of = {}
        for side in self.sets:
            unique, inverse = np.unique(patients[side], return_inverse=True)
            if len(unique) < 2:
                return float("nan"), float("nan")
            records_of[side] = [np.flatnonzero(inverse == k) for k in range(len(unique))]
        values = np.empty(draws)
        for draw in range(draws):
            drawn = []
            for side, arrays in self.sets.items():
                records = records_of[side]
                index = np.concatenate([records[k] for k in rng.integers(len(records), size=len(records))])
                drawn.extend(array[index] for array in arrays)
            values[draw] = self.statistic(*drawn)
        if np.isnan(values).mean() > 0.5:
            return float("nan"), float("nan")
        low, high = np.nanquantile(values, [(1 - level) / 2, (1 + level) / 2])
        return float(low), float(high)
