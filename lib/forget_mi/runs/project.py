"""The project's folder, and how paths, tables and progress bars are written."""

from __future__ import annotations

import os
from pathlib import Path

import pandas as pd

from forget_mi.files import write_text

ROOT = Path(__file__).resolve().parents[3]


def display_path(path: Path) -> str:
    """A path for messages and outputs: relative to the project where it lies in it."""
    path = Path(path)
    return str(path.relative_to(ROOT)) if path.is_relative_to(ROOT) else str(path)


def write_table(path: Path, table: pd.DataFrame) -> None:
    """A CSV file, whole or not at all, with six significant digits."""
    write_text(path, table.to_csv(index=False, float_format="%.6g"))


def show_progress() -> bool:
    """Progress bars are drawn unless FORGET_MI_PROGRESS=0, as when notebooks are executed to be
    committed."""
    return os.environ.get("FORGET_MI_PROGRESS", "1") != "0"
