"""What F_og said of those who stay, kept from one run to the next: F_og never changes, so it is not asked again."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

from forget_mi.errors import InputError
from forget_mi.files import replace_when_whole
from forget_mi.models.outputs import ModelOutput


@dataclass
class KeptOutputs:
    """F_og's logits and embeddings by row of the cohort's table, as far as it was asked; in memory until `save`.

    path: the file (safetensors). fingerprint: of F_og's weights, the cohort, precision and code; what a file with
    another one says is not taken.
    """

    path: Path
    fingerprint: str
    rows: np.ndarray = field(default_factory=lambda: np.empty(0, dtype=np.int64))
    values: ModelOutput | None = None

    @classmethod
    def open(cls, path: Path, fingerprint: str) -> KeptOutputs:
        """What the file holds, or nothing where there is none or it is another's. Raises InputError for a damaged
        file."""
        from safetensors import SafetensorError, safe_open

        found = cls(Path(path), fingerprint)
        if not found.path.is_file():
            return found
        try:
            with safe_open(found.path, "pt") as file:
                if (file.metadata() or {}).get("fingerprint") == fingerprint:
                    found.rows = file.get_tensor("rows").numpy()
                    found.values = ModelOutput(*(file.get_tensor(name) for name in ModelOutput._fields))
        except SafetensorError as error:
            raise InputError(f"{path}: is damaged ({error}); remove it, and F_og is asked again") from None
        return found

    def __len__(self) -> int:
        return len(self.rows)

    def of(self, rows: np.ndarray) -> tuple[np.ndarray, ModelOutput | None]:
        """Which of some rows are known (bool, n), and what was said of those (in their order)."""
        if self.values is None:
            return np.zeros(len(rows), dtype=bool), None
        at = np.searchsorted(self.rows, rows).clip(max=len(self.rows) - 1)
        known = self.rows[at] == rows
        return known, ModelOutput(*(t[torch.from_numpy(at[known])] for t in self.values))

    def add(self, rows: np.ndarray, values: ModelOutput) -> None:
        """Take in what was said of some rows (values, n each); what is known already stays as it is."""
        values = ModelOutput(*(t.detach().cpu() for t in values))
        if self.values is not None:
            rows = np.concatenate([self.rows, rows])
            values = ModelOutput(*(torch.cat(pair) for pair in zip(self.values, values, strict=True)))
        self.rows, first = np.unique(rows, return_index=True)
        self.values = ModelOutput(*(t[torch.from_numpy(first)].contiguous() for t in values))

    def save(self) -> None:
        """Write the file, whole or not at all, with what another process has added to it since."""
        from safetensors.torch import save_file

        there = KeptOutputs.open(self.path, self.fingerprint)
        if there.values is not None:
            self.add(there.rows, there.values)
        if self.values is not None:
            with replace_when_whole(self.path) as temporary:
                tensors = {"rows": torch.from_numpy(self.rows), **self.values._asdict()}
                save_file(tensors, temporary, metadata={"fingerprint": self.fingerprint})
