"""The salt by which a run hashes the ids of real people; it lies in the run's folder."""

from __future__ import annotations

import secrets
from pathlib import Path

from forget_mi.files import write_text

SALT = "salt"


def run_salt(folder: Path) -> str:
    """The salt of a run folder, drawn and kept there the first time; that of the folder above where
    it has one, so that the runs of a sweep know each other's patients."""
    folder = Path(folder)
    return draw_salt(folder.parent if (folder.parent / SALT).is_file() else folder)


def draw_salt(folder: Path) -> str:
    """The salt kept in this very folder, drawn the first time."""
    path = Path(folder) / SALT
    if not path.is_file():
        write_text(path, secrets.token_hex(16) + "\n")
    return path.read_text().strip()
