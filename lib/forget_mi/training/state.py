"""The log of a training, and its state after each epoch, from which a killed run goes on."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path

import pandas as pd
from accelerate import Accelerator

from forget_mi.errors import InputError
from forget_mi.files import replace_when_whole, write_text


@dataclass
class TrainingLog:
    """What happened: one dict an epoch, the wall time of the passes over the training data in
    seconds (validation and writing not counted), and the epoch with the best validation AUC."""

    epochs: list[dict[str, float]] = field(default_factory=list)
    seconds: float = 0.0
    best_epoch: int = 0

    def table(self) -> pd.DataFrame:
        """One row an epoch."""
        return pd.DataFrame(self.epochs)


class TrainingState:
    """The state of a training after its last whole epoch, kept in a folder so that a killed run can
    go on."""

    def __init__(self, folder: Path | None, identity: dict, accelerator: Accelerator):
        self.folder = None if folder is None else Path(folder)
        self.identity = json.loads(json.dumps(identity))
        self.accelerator = accelerator

    def restore(self) -> TrainingLog:
        """The log so far; InputError where the state belongs to other settings."""
        if self.folder is None or not (self.folder / "log.json").is_file():
            return TrainingLog()
        saved = json.loads((self.folder / "log.json").read_text())
        if saved["identity"] != self.identity:
            raise InputError(
                f"{self.folder}: holds a half-finished training with other settings "
                f"({saved['identity']}); remove the folder, or go on with those settings"
            )
        self.accelerator.load_state(str(self.folder / "accelerate"))
        return TrainingLog(**saved["log"])

    def save(self, log: TrainingLog) -> None:
        """Write the state after an epoch, whole or not at all."""
        if self.folder is None:
            return
        # One process writes for all. Left out is the random state of the others, which each epoch
        # sets again.
        if self.accelerator.is_main_process:
            with replace_when_whole(self.folder) as temporary:
                self.accelerator.save_state(str(temporary / "accelerate"))
                write_text(
                    temporary / "log.json",
                    json.dumps({"identity": self.identity, "log": asdict(log)}),
                )
        self.accelerator.wait_for_everyone()
