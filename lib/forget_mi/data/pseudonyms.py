"""Hashed ids: what a run keeps, prints and logs of real people says which records belong together,
not whose they are.

Real sources are hashed as they come in (`cohort.ids: hashed`, the default; `plain` where a file has
to be found), with a salt that is drawn once a run (or once for all runs of a sweep) and lies in the
run's folder. Whoever asks to be forgotten is still named by the id of the collection. An error that
stops the reading names the file to be mended. The images and reports in a run folder are those of
real people all the same: runs/ is not to be shared.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import replace

from forget_mi.data.cohort import Cohort

HASHED = re.compile(r"p-[0-9a-f]{16}")  # of a patient


KINDS = {"patient_id": "p", "study_id": "s", "image_id": "i"}


def pseudonym(salt: str, kind: str, value: str) -> str:
    """The hashed id of a patient_id, study_id or image_id: 'p-' (s-, i-) and 16 hex digits."""
    return f"{KINDS[kind]}-{hashlib.sha256(f'{salt}/{kind}/{value}'.encode()).hexdigest()[:16]}"


def pseudonymize(cohort: Cohort, salt: str) -> Cohort:
    """The cohort with hashed patient, study and image ids (also of what was left out), and with
    `salt`, by which requests find their patients."""
    table, skipped = cohort.table.copy(), cohort.skipped.copy()
    for kind in KINDS:
        table[kind] = [pseudonym(salt, kind, value) for value in table[kind]]
    skipped["item"] = [pseudonym(salt, "image_id", str(item)) for item in skipped["item"]]
    reports = {pseudonym(salt, "study_id", study): text for study, text in cohort.reports.items()}
    return replace(cohort, table=table, reports=reports, skipped=skipped, salt=salt)
