"""Destroying the records of patients whose requests were served."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd

from forget_mi.data import Cohort
from forget_mi.errors import InputError
from forget_mi.files import replace_when_whole, write_text
from forget_mi.models import WEIGHTS
from forget_mi.requests.served_model import DELETED, ServedModel
from forget_mi.runs import Run, display_path

JOURNAL = "deleting.json"  # in the run's folder while records are destroyed
# Runs of earlier versions may hold outputs of single records beside the original model.
OUTPUTS = "original.outputs.safetensors"


def delete_records(model: Path) -> int:
    """Destroy what is left of the patients whose requests a run's model served; return how many
    records that were.

    In every copy of the cohort below the run their images are blanked, their reports and ids
    replaced. Executed notebooks (which show pictures and reports), the weights of every model but
    those in use (which knew some of them) and outputs of single records are removed. No later
    request or audit reads these patients (they are on the side 'deleted'). Shadow models belong to
    the cohort as it was; an audit with them needs new ones.

    A call that was killed goes on the next time: the journal keeps what is replaced by what until
    all is done.

    Raises InputError where no request was served.
    """
    served_model = ServedModel(model)
    served, hashed = served_model.served(), served_model.hashed
    if not served:
        raise InputError(
            f"MODEL {display_path(model)}: no request was served; there are no records to delete"
        )
    references = Run(model, served_model.params).reference_seeds()
    in_use = {served_model.checkpoint(), *(served_model.reference(name) for name in references)}
    journal = model / JOURNAL
    begun = json.loads(journal.read_text()) if journal.is_file() else {"deleted": 0, "renamed": {}}
    deleted, renamed = begun["deleted"], begun["renamed"]
    ids = served_model.cohort().table.patient_id.unique()
    renamed |= {name: hashed(name) for name in ids if hashed(name) in served}
    for path in sorted(model.rglob("cohort.json")):
        before = Cohort.load(path.parent)
        after, count = erase_records(
            before, before.table.patient_id.map(hashed).isin(served), hashed
        )
        if count:
            renamed[before.fingerprint] = after.fingerprint
            deleted = max(deleted, count)
            write_text(journal, json.dumps({"deleted": deleted, "renamed": renamed}))
            with replace_when_whole(path.parent) as whole:
                after.save(whole)
    stale = [path for path in model.rglob(WEIGHTS) if path.parent not in in_use]
    for path in (*model.rglob("*.ipynb"), *stale, *model.rglob(OUTPUTS)):
        path.unlink()
    # Fingerprints and ids that manifests, profiles and tables name.
    names = re.compile(r"\b(" + "|".join(map(re.escape, renamed)) + r")\b") if renamed else None
    for path in model.rglob("*") if names else ():
        if (
            path.suffix in (".json", ".yaml", ".csv")
            and path.parent.name != "cohort"
            and path != journal
        ):
            write_text(path, names.sub(lambda found: renamed[found[0]], path.read_text()))
    journal.unlink(missing_ok=True)
    return deleted


def erase_records(
    cohort: Cohort, rows: pd.Series, hashed: Callable[[str], str]
) -> tuple[Cohort, int]:
    """The cohort with some of its rows (bool, n) destroyed: blank images, no report, no id that
    leads anywhere, on the side 'deleted'; and how many of them were there until now. The other rows
    keep their places.

    Raises InputError for a cohort whose images lie in a store that other runs share.
    """
    rows = rows & (cohort.table.split != DELETED)
    if not rows.any():
        return cohort, 0
    if cohort.store is not None:
        raise InputError(
            f"{cohort.store}: other runs share this image store; delete the files at their source"
        )
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
