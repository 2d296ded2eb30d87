"""What every unlearning method is given and gives back."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import pandas as pd

from forget_mi.batches import Examples, make_examples
from forget_mi.checkpoints import Checkpoint
from forget_mi.cohorts.base import Cohort
from forget_mi.models import ImageTextModel
from forget_mi.splits import Request, rows_of
from forget_mi.unlearning.kept import KeptOutputs


@dataclass(frozen=True)
class Reference:
    """A model that never saw some patients of D_f. forget, validation: D_f and D_v, tokenised for it. stranger: bool
    (n), which records of D_f are of patients that it was not trained on."""

    name: str
    model: ImageTextModel
    forget: Examples
    validation: Examples
    stranger: np.ndarray

    @classmethod
    def on(cls, name: str, saved: Checkpoint, data: UnlearningData, cohort: Cohort, stranger: np.ndarray) -> Reference:
        """A saved reference model on the records of a request."""
        sets = (
            make_examples(cohort, examples.rows.tolist(), saved.tokenizer, saved.model.max_tokens)
            for examples in (data.forget, data.validation)
        )
        return cls(name, saved.model, *sets, stranger)


@dataclass(frozen=True)
class UnlearningData:
    """D_f, D_r and D_v, tokenised for the model at hand. There is no test set in it, and no retrained model: a method
    can't look at what it will be judged by. forget_reports: the report text of each record of D_f. references: models
    that never saw some patients of D_f, where the run has them (see forget_mi.references); together they are strangers
    to all of D_f. kept: what F_og said of D_r in earlier runs; None where each run is to pay for its own."""

    forget: Examples
    retain: Examples
    validation: Examples
    forget_reports: Sequence[str]
    tokenizer: object
    max_tokens: int
    references: tuple[Reference, ...] = ()
    kept: KeptOutputs | None = None

    @classmethod
    def from_cohort(
        cls, cohort: Cohort, request: Request, tokenizer, max_tokens: int, kept: KeptOutputs | None = None
    ) -> UnlearningData:
        """The data of one deletion request."""
        forget_rows = request.forget_rows(cohort)

        def examples(rows: np.ndarray) -> Examples:
            return make_examples(cohort, rows, tokenizer, max_tokens)

        return cls(
            forget=examples(forget_rows),
            retain=examples(request.retain_rows(cohort)),
            validation=examples(rows_of(cohort, "validation")),
            forget_reports=[cohort.report_of(row) for row in forget_rows],
            tokenizer=tokenizer,
            max_tokens=max_tokens,
            kept=kept,
        )


# A forward pass without a gradient costs about a third of one with.
FORWARD_ONLY = 1 / 3


@dataclass
class UnlearningLog:
    """What happened: one dict an epoch, the wall time of the whole call in seconds (targets, stop rule and all), why it
    stopped, and `work`: how many records went through the model forward and backward (those that only went forward
    count a third), a measure of cost that is the same on every machine."""

    epochs: list[dict[str, float]] = field(default_factory=list)
    seconds: float = 0.0
    stopped: str = ""
    work: float = 0.0
    _started: float = field(default_factory=time.perf_counter, repr=False)

    def finish(self, reason: str) -> UnlearningLog:
        """Stop the clock."""
        self.seconds, self.stopped = time.perf_counter() - self._started, reason
        return self

    def table(self) -> pd.DataFrame:
        """One row an epoch."""
        return pd.DataFrame(self.epochs)


# ---- what a search may try (SEARCH of each method's module) ---------------------------------------------------------


class LogUniform(NamedTuple):
    """Any number between low and high, the logarithm uniform."""

    low: float
    high: float


class Uniform(NamedTuple):
    """Any number between low and high."""

    low: float
    high: float


class Whole(NamedTuple):
    """Any whole number from low to high."""

    low: int
    high: int


class OneOf(NamedTuple):
    """One of some values."""

    values: tuple


SearchSpace = Mapping[str, LogUniform | Uniform | Whole | OneOf]
