"""Teacher outputs: what F_og returns for some records, computed once."""

from __future__ import annotations

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor

from forget_mi.data.batches import Examples
from forget_mi.models.image_text import ImageTextModel
from forget_mi.models.outputs import ModelOutput
from forget_mi.training.prediction import Predictions, predict
from forget_mi.unlearning.base import FORWARD_ONLY, UnlearningLog
from forget_mi.unlearning.kept import KeptOutputs
from forget_mi.unlearning.samplers import Draw, retained

UNKNOWN = -1


class OriginalOutputs:
    """F_og's logits and embeddings of a set of records, each computed at most once, when first asked for.

    F_og is frozen, so what it says never changes; and records that are never drawn cost nothing. Evaluation mode,
    always: dropout or batch statistics would move the targets. kept: what earlier runs asked is taken from there, and
    what this one asks is added.
    """

    def __init__(
        self,
        model: ImageTextModel,
        examples: Examples,
        accelerator: Accelerator,
        log: UnlearningLog,
        kept: KeptOutputs | None = None,
    ):
        self._model, self._examples, self._accelerator, self._log = model, examples, accelerator, log
        self._kept = kept
        # Where in the values a record's are, or UNKNOWN: memory goes by the records asked of, not by the cohort's size.
        self._place = np.full(len(examples), UNKNOWN)
        self._values: ModelOutput | None = None

    def prepare(self, index: np.ndarray) -> None:
        """Compute what is still missing of the records at `index`, in one pass."""
        missing = np.unique(index[self._place[index] == UNKNOWN])
        rows = self._examples.rows.numpy()
        if self._kept is not None and len(missing):
            known, values = self._kept.of(rows[missing])
            self._take(missing[known], values)
            missing = missing[~known]
        if len(missing) == 0:
            return
        found = predict(self._model, self._examples.select(missing), self._accelerator)
        self._log.work += FORWARD_ONLY * len(missing)
        new = as_output(found, self._accelerator.device)
        self._take(missing, new)
        if self._kept is not None:
            self._kept.add(rows[missing], new)

    def _take(self, index: np.ndarray, new: ModelOutput | None) -> None:
        if len(index) == 0:
            return
        new = [t.to(self._accelerator.device) for t in new]
        before = 0 if self._values is None else len(self._values[0])
        self._place[index] = np.arange(before, before + len(index))
        self._values = ModelOutput(*(new if before == 0 else map(torch.cat, zip(self._values, new, strict=True))))

    def prepare_retained(self, draws: list[Draw]) -> None:
        """Compute what is missing of the retain records of an epoch's steps."""
        self.prepare(retained(draws))

    def at(self, index: Tensor) -> ModelOutput:
        """The output for records that were prepared."""
        place = torch.from_numpy(self._place[index.cpu().numpy()]).to(self._accelerator.device)
        return ModelOutput(*(t[place] for t in self._values))


def as_output(predictions: Predictions, device: torch.device) -> ModelOutput:
    """Predictions as tensors on a device."""
    return ModelOutput(*(torch.from_numpy(getattr(predictions, name)).to(device) for name in ModelOutput._fields))
