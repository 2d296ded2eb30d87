"""Destroying the records of patients whose requests were served."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pandas as pd

from forget_mi.data.cohort import Cohort
from forget_mi.errors import InputError

DELETED = "deleted"  # the side of rows whose records were destroyed


DELETING = "deleting.json"  # in the run's folder while that goes on


def without_records(cohort: Cohort, rows: pd.Series, hashed: Callable[[str], str]) -> tuple[Cohort, int]:
    """The cohort with some of its rows (bool, n) destroyed: blank images, no report, no id that leads anywhere, on the
    side 'deleted'; and how many of them were there until now. The other rows keep their places.

    Raises InputError for a cohort whose images lie in a store that other runs share.
    """
    rows = rows & (cohort.table.split != DELETED)
    if not rows.any():
        return cohort, 0
    if cohort.store is not None:
        raise InputError(f"{cohort.store}: other runs share this image store; delete the files at their source")
    table, images = cohort.table.copy(), np.array(cohort.images)
    images[rows.to_numpy()] = 0
    studies = set(table.study_id[rows])
    for number, at in enumerate(table.index[rows]):
        table.loc[at, ["study_id", "image_id"]] = f"deleted-{at}", f"deleted-{at}-{number}"
        table.loc[at, "patient_id"] = hashed(table.patient_id[at])
    table.loc[rows, "split"] = DELETED
    reports = {study: text for study, text in cohort.reports.items() if study not in studies}
    reports |= dict.fromkeys(table.study_id[rows], "deleted")
    return replace(cohort, table=table, images=images, reports=reports), int(rows.sum())
