"""What every unlearning method is given and gives back."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated, Literal

import numpy as np
import pandas as pd
from pydantic import Field

from forget_mi.config import config
from forget_mi.data import Cohort, Examples, Request, make_examples, rows_of
from forget_mi.models import Checkpoint, ImageTextModel


@dataclass(frozen=True)
class Reference:
    """A model that never saw some patients of D_f. forget, validation: D_f and D_v, tokenised for
    it. stranger: bool (n), which records of D_f are of patients that it was not trained on."""

    name: str
    model: ImageTextModel
    forget: Examples
    validation: Examples
    stranger: np.ndarray

    @classmethod
    def from_checkpoint(
        cls,
        name: str,
        saved: Checkpoint,
        data: UnlearningData,
        cohort: Cohort,
        stranger: np.ndarray,
    ) -> Reference:
        """A saved reference model on the records of a request."""
        sets = (
            make_examples(cohort, examples.rows.tolist(), saved.tokenizer, saved.model.max_tokens)
            for examples in (data.forget, data.validation)
        )
        return cls(name, saved.model, *sets, stranger)


@dataclass(frozen=True)
class UnlearningData:
    """D_f, D_r and D_v, tokenised for the model at hand. There is no test set in it, and no
    retrained model: a method can't look at what it will be judged by. forget_reports: the report
    text of each record of D_f; it, tokenizer and max_tokens are for methods that write reports
    again. references: models that never saw some patients of D_f, where the run has them (see
    `unlearning.references`); together they are strangers to all of D_f."""

    forget: Examples
    retain: Examples
    validation: Examples
    forget_reports: Sequence[str] = ()
    tokenizer: object = None
    max_tokens: int = 0
    references: tuple[Reference, ...] = ()

    @classmethod
    def from_cohort(
        cls, cohort: Cohort, request: Request, tokenizer, max_tokens: int
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
        )


# A forward pass without a gradient costs about a third of one with.
FORWARD_ONLY = 1 / 3


@dataclass
class UnlearningLog:
    """What happened: one dict an epoch, the wall time of the whole call in seconds (targets, stop
    rule and all), why it stopped, and `work`: how many records went through the model forward and
    backward (those that only went forward count a third), a measure of cost that is the same on
    every machine."""

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


@config
class StepConfig:
    """epochs: at most. batch_size: forget records a step at most; a small request is spread over at
    least `least_steps` steps a pass, so that those who stay are held as often as they are
    disturbed. retain_batch: retain records a step. learning_rate, weight_decay, beta2: AdamW.
    schedule: of the rate; 'linear' warms up over the first tenth of the run and decays to 0 at its
    end. clip: largest gradient norm. batch_norm: whether it keeps F_og's running statistics
    (frozen) or takes each batch's. rewind: how far the pretrained networks of the towers go back
    towards their pretrained weights before the first step (0: not; `rewinding`). stop: 'validation'
    ends the run as soon as the cross-entropy on D_f has reached that of F_og on D_v; 'never' runs
    all epochs, and asks nothing of D_v."""

    epochs: Annotated[int, Field(ge=1, le=10_000)] = 8
    batch_size: Annotated[int, Field(ge=1)] = 16
    least_steps: Annotated[int, Field(ge=1)] = 1
    retain_batch: Annotated[int, Field(ge=1)] = 32
    learning_rate: Annotated[float, Field(gt=0, le=1)] = 5e-4
    weight_decay: Annotated[float, Field(ge=0, le=10)] = 0.0
    beta2: Annotated[float, Field(gt=0, lt=1)] = 0.999
    schedule: Literal["constant", "linear"] = "constant"
    clip: Annotated[float, Field(gt=0)] = 1.0
    batch_norm: Literal["train", "frozen"] = "frozen"
    rewind: Annotated[float, Field(ge=0, le=1)] = 0.0
    stop: Literal["validation", "never"] = "validation"
