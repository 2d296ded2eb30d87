"""Teacher outputs: the logits and embeddings of a frozen model for some records, computed once."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor

from forget_mi.data import Examples
from forget_mi.models import ImageTextModel, ModelOutput
from forget_mi.training import Predictions, predict
from forget_mi.unlearning.base import FORWARD_ONLY, UnlearningLog
from forget_mi.unlearning.samplers import StepIndices

NOT_COMPUTED = -1


class TeacherOutputs:
    """F_og's outputs for a set of records, each computed at most once, when it is first needed.

    F_og is frozen and in evaluation mode, so its outputs never change, and records that are never
    drawn cost nothing.
    """

    def __init__(
        self,
        teacher: ImageTextModel,
        examples: Examples,
        accelerator: Accelerator,
        log: UnlearningLog,
    ):
        self._teacher, self._examples, self._accelerator, self._log = (
            teacher,
            examples,
            accelerator,
            log,
        )
        # The position of each record's output: memory grows with the records computed, not with the
        # cohort.
        self._position = np.full(len(examples), NOT_COMPUTED)
        self._position_there: Tensor | None = None  # the same on the device
        self._values: ModelOutput | None = None

    def compute(self, index: np.ndarray | None = None) -> None:
        """Compute what is missing of the records at `index` (all of them without one), in one
        pass."""
        index = np.arange(len(self._examples)) if index is None else index
        missing = np.unique(index[self._position[index] == NOT_COMPUTED])
        if len(missing) == 0:
            return
        predictions = predict(self._teacher, self._examples.select(missing), self._accelerator)
        self._log.work += FORWARD_ONLY * len(missing)
        new = to_model_output(predictions, self._accelerator.device)
        before = 0 if self._values is None else len(self._values[0])
        self._position[missing] = np.arange(before, before + len(missing))
        self._position_there = torch.from_numpy(self._position).to(self._accelerator.device)
        self._values = ModelOutput(
            *(new if before == 0 else map(torch.cat, zip(self._values, new, strict=True)))
        )

    def compute_retained(self, steps: Sequence[StepIndices]) -> None:
        """Compute what is missing of the retain records of an epoch's steps."""
        self.compute(np.concatenate([step.retain for step in steps]))

    def at(self, index: Tensor) -> ModelOutput:
        """The outputs of records that were computed. index: their positions, on the device, which
        is not waited for."""
        position = self._position_there[index]
        return ModelOutput(*(t[position] for t in self._values))


def to_model_output(predictions: Predictions, device: torch.device) -> ModelOutput:
    """Predictions as tensors on a device."""
    return ModelOutput(
        *(torch.from_numpy(getattr(predictions, name)).to(device) for name in ModelOutput._fields)
    )
