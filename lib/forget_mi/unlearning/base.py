"""What every unlearning method is given and gives back."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import pandas as pd
import torch
from accelerate import Accelerator

from forget_mi.batches import Examples, make_examples
from forget_mi.cohorts.base import Cohort
from forget_mi.metrics import predict
from forget_mi.models import Embeddings, ImageTextModel
from forget_mi.splits import Request, rows_of


@dataclass(frozen=True)
class UnlearningData:
    """D_f, D_r and D_v, tokenised for the model at hand. There is no test set in it, and no retrained model: a method
    can't look at what it will be judged by. forget_reports: the report text of each record of D_f."""

    forget: Examples
    retain: Examples
    validation: Examples
    forget_reports: Sequence[str]
    tokenizer: object
    max_tokens: int

    @classmethod
    def from_cohort(cls, cohort: Cohort, request: Request, tokenizer, max_tokens: int) -> UnlearningData:
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


@dataclass
class UnlearningLog:
    """What happened: one dict an epoch, the wall time of the whole call in seconds (targets, stop rule and all), and
    why it stopped."""

    epochs: list[dict[str, float]] = field(default_factory=list)
    seconds: float = 0.0
    stopped: str = ""
    _started: float = field(default_factory=time.perf_counter, repr=False)

    def finish(self, reason: str) -> UnlearningLog:
        """Stop the clock."""
        self.seconds, self.stopped = time.perf_counter() - self._started, reason
        return self

    def table(self) -> pd.DataFrame:
        """One row an epoch."""
        return pd.DataFrame(self.epochs)


def fused_loss(model: ImageTextModel, examples: Examples, accelerator: Accelerator) -> float:
    """Mean cross-entropy of the fused prediction in evaluation mode, in nats: what stop rules compare."""
    return float(predict(model, examples, accelerator).cross_entropy("fused").mean())


class OriginalEmbeddings:
    """F_og's z_img and z_txt of a set of records, each computed at most once, when first asked for.

    F_og is frozen, so its embeddings never change; and records that are never drawn cost nothing. Evaluation mode,
    always: dropout or batch statistics would move the targets.
    """

    def __init__(self, model: ImageTextModel, examples: Examples, accelerator: Accelerator):
        self._model, self._examples, self._accelerator = model, examples, accelerator
        self._known = np.zeros(len(examples), dtype=bool)
        self._values: Embeddings | None = None

    def prepare(self, index: np.ndarray) -> None:
        """Compute what is still missing of the records at `index`, in one pass."""
        missing = np.unique(index[~self._known[index]])
        if len(missing) == 0:
            return
        found = predict(self._model, self._examples.select(missing), self._accelerator)
        device = self._accelerator.device
        new = Embeddings(
            torch.from_numpy(found.image_embedding).to(device), torch.from_numpy(found.text_embedding).to(device)
        )
        if self._values is None:
            self._values = Embeddings(*(z.new_zeros(len(self._examples), z.shape[1]) for z in new))
        for values, z in zip(self._values, new, strict=True):
            values[torch.from_numpy(missing).to(device)] = z
        self._known[missing] = True

    def at(self, index: torch.Tensor) -> Embeddings:
        """The embeddings (batch, width) of records that were prepared."""
        index = index.to(self._accelerator.device)
        return Embeddings(self._values.image[index], self._values.text[index])
