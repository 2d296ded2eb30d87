"""Hashed ids: what a run keeps, prints and logs of real people says which records belong together, not whose they are.

Real sources are hashed as they come in (`cohort.ids: hashed`, the default; `plain` where a file has to be found), with
a salt that is drawn once a run (or once for all runs of a sweep) and lies in the run's folder. Whoever asks to be
forgotten is still named by the id of the collection. An error that stops the reading names the file to be mended. The
images and reports in a run folder are those of real people all the same: runs/ is not to be shared.
"""

from __future__ import annotations

import hashlib
import re
import secrets
from dataclasses import replace
from pathlib import Path

from forget_mi.data.cohort import Cohort
from forget_mi.files import write_text

SALT = "salt"


HASHED = re.compile(r"p-[0-9a-f]{16}")  # of a patient


KINDS = {"patient_id": "p", "study_id": "s", "image_id": "i"}


def pseudonym(salt: str, kind: str, value: str) -> str:
    """The hashed id of a patient_id, study_id or image_id: 'p-' (s-, i-) and 16 hex digits."""
    return f"{KINDS[kind]}-{hashlib.sha256(f'{salt}/{kind}/{value}'.encode()).hexdigest()[:16]}"


def hashed(cohort: Cohort, salt: str) -> Cohort:
    """The cohort with hashed patient, study and image ids (also of what was left out), and with `salt`, by which
    requests find their patients."""
    table, skipped = cohort.table.copy(), cohort.skipped.copy()
    for kind in KINDS:
        table[kind] = [pseudonym(salt, kind, value) for value in table[kind]]
    skipped["item"] = [pseudonym(salt, "image_id", str(item)) for item in skipped["item"]]
    reports = {pseudonym(salt, "study_id", study): text for study, text in cohort.reports.items()}
    return replace(cohort, table=table, reports=reports, skipped=skipped, salt=salt)


def run_salt(folder: Path) -> str:
    """The salt of a run folder, drawn and kept there the first time; that of the folder above where it has one, so that
    the runs of a sweep know each other's patients."""
    folder = Path(folder)
    return draw_salt(folder.parent if (folder.parent / SALT).is_file() else folder)


def draw_salt(folder: Path) -> str:
    """The salt kept in this very folder, drawn the first time."""
    path = Path(folder) / SALT
    if not path.is_file():
        write_text(path, secrets.token_hex(16) + "\n")
    return path.read_text().strip()
