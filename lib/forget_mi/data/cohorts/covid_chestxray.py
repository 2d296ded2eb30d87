"""The COVID-19 image data collection (Cohen et al., 2020, arXiv 2006.11988) as cloned: metadata.csv
and images/.

Used are frontal X-rays (PA, AP, AP Supine) with clinical notes and a known finding; the label is
COVID-19 against everything else. What is left out is listed with its reason in `Cohort.skipped`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import Field

from forget_mi.config import config
from forget_mi.data.cohort import Cohort
from forget_mi.data.images import UnreadableImageError, inside
from forget_mi.data.store import FilesConfig, cohort_from_files
from forget_mi.data.tables import read_table

CLASSES = ("other", "COVID-19")


VIEWS = ("PA", "AP", "AP Supine")


NEEDED = (
    "patientid",
    "offset",
    "finding",
    "view",
    "modality",
    "folder",
    "filename",
    "clinical_notes",
)


@config
class CovidConfig(FilesConfig):
    """root: the folder with metadata.csv and images/. image_size: images are padded to a square and
    resized to it. The rest: FilesConfig."""

    root: Path
    image_size: Annotated[int, Field(ge=32, le=2048)] = 64


def load(settings: CovidConfig) -> Cohort:
    """Read the collection.

    Raises InputError where metadata.csv is missing or malformed, or too many images are unreadable.
    """
    metadata = read_table(settings.root / "metadata.csv", NEEDED, "the collection's metadata")
    skipped: list[tuple[str, str]] = []
    rows, paths, reports = [], [], {}
    unreadable, owner, studies, seen = [], {}, {}, set()
    for row in metadata.to_dict("records"):
        item = row["filename"] or f"metadata.csv line {row['line']}"
        reason = _why_not(row)
        if (
            reason is None
            and owner.setdefault(row["filename"], row["patientid"]) != row["patientid"]
        ):
            # One file under two patients would stand on two sides of a split.
            reason = "the same image file stands under another patient"
        elif reason is None and row["filename"] in seen:
            reason = "the image file stands in an earlier row"
        if reason is not None:
            skipped.append((item, reason))
            continue
        seen.add(row["filename"])
        try:
            path = inside(settings.root, row["folder"], row["filename"])
        except UnreadableImageError as error:
            unreadable.append((item, f"unreadable image: {error}"))
            continue
        notes = " ".join(row["clinical_notes"].split())
        key = (row["patientid"], row["offset"], notes)
        study = studies.setdefault(key, f"{row['patientid']}-{len(studies):04d}")
        reports[study] = notes
        rows.append(
            {
                "patient_id": row["patientid"],
                "study_id": study,
                "image_id": row["filename"],
                "label": int("COVID-19" in row["finding"]),
                "sex": row.get("sex", ""),
                "view": row["view"],
            }
        )
        paths.append(path)
    return cohort_from_files(
        "covid_chestxray",
        CLASSES,
        rows,
        paths,
        reports,
        settings,
        ineligible=skipped,
        unusable=unreadable,
    )


def _why_not(row: dict[str, str]) -> str | None:
    if row["modality"] != "X-ray":
        return f"modality {row['modality'] or 'unknown'}, not X-ray"
    if row["view"] not in VIEWS:
        return f"view {row['view'] or 'unknown'}, not frontal"
    if row["finding"].lower() in ("", "todo", "unknown"):
        return f"finding {row['finding'] or 'empty'}"
    if not row["clinical_notes"]:
        return "no clinical notes"
    if not row["patientid"]:
        return "no patient id"
    return None
