"""The COVID-19 image data collection (Cohen et al., 2020, arXiv 2006.11988) as cloned: metadata.csv and images/.

Used are frontal X-rays (PA, AP, AP Supine) with clinical notes and a known finding; the label is COVID-19 against
everything else. What is left out is listed with its reason in `Cohort.skipped`.
"""

from __future__ import annotations

import re
from pathlib import Path, PurePosixPath
from typing import Annotated

import numpy as np
import pandas as pd
from PIL import Image
from pydantic import Field

from forget_mi.cohorts.base import SKIPPED_COLUMNS, Cohort
from forget_mi.errors import InputError
from forget_mi.params import config

CLASSES = ("other", "COVID-19")
VIEWS = ("PA", "AP", "AP Supine")
NEEDED = ("patientid", "offset", "finding", "view", "modality", "folder", "filename", "clinical_notes")


@config
class CovidConfig:
    """root: the folder with metadata.csv and images/. image_size: images are padded to a square and resized to it.
    max_unreadable: share of the eligible images that may be missing or unreadable; above it the run stops."""

    root: Path
    image_size: Annotated[int, Field(ge=32, le=2048)] = 64
    max_unreadable: Annotated[float, Field(ge=0, le=1)] = 0.01


def load(settings: CovidConfig) -> Cohort:
    """Read the collection.

    Raises InputError where metadata.csv is missing or malformed, or too many images are unreadable.
    """
    metadata = _read_metadata(settings.root / "metadata.csv")
    skipped: list[tuple[str, str]] = []
    rows, pictures, reports = [], [], {}
    unreadable, owner, studies = [], {}, {}
    for line, row in enumerate(metadata.to_dict("records"), start=2):
        item = row["filename"] or f"metadata.csv line {line}"
        reason = _why_not(row)
        if reason is None and owner.setdefault(row["filename"], row["patientid"]) != row["patientid"]:
            # One file under two patients would stand on two sides of a split.
            reason = "the same image file stands under another patient"
        elif reason is None and row["filename"] in {r["image_id"] for r in rows}:
            reason = "the image file stands in an earlier row"
        if reason is not None:
            skipped.append((item, reason))
            continue
        try:
            picture = read_image(inside(settings.root, row["folder"], row["filename"]), settings.image_size)
        except (OSError, ValueError, SyntaxError) as error:
            unreadable.append((item, f"unreadable image: {' '.join(str(error).split())}"))
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
        pictures.append(picture)
    eligible = len(rows) + len(unreadable)
    if len(unreadable) > settings.max_unreadable * eligible:
        item, reason = unreadable[0]
        raise InputError(
            f"{settings.root}: {len(unreadable)} of {eligible} images can't be used, first {item} ({reason}); "
            f"cohort.max_unreadable = {settings.max_unreadable} allows {int(settings.max_unreadable * eligible)}"
        )
    if not rows:
        raise InputError(f"{settings.root}/metadata.csv: no row is a frontal X-ray with notes and a known finding")
    return Cohort(
        name="covid_chestxray",
        table=pd.DataFrame(rows),
        images=np.stack(pictures)[:, None],
        reports=reports,
        classes=CLASSES,
        synthetic=False,
        skipped=pd.DataFrame(skipped + unreadable, columns=list(SKIPPED_COLUMNS)),
    )


def _read_metadata(path: Path) -> pd.DataFrame:
    try:
        metadata = pd.read_csv(path, dtype=str, keep_default_na=False, encoding="utf-8-sig")
    except (OSError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise InputError(f"{path}: can't be read as the collection's metadata.csv ({reason})") from None
    missing = [name for name in NEEDED if name not in metadata.columns]
    if missing:
        raise InputError(f"{path}: lacks the column(s) {', '.join(missing)}")
    return metadata.apply(lambda column: column.str.strip())


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


def inside(root: Path, *parts: str) -> Path:
    """The path of a file below root; ValueError where the parts lead elsewhere."""
    relative = PurePosixPath(*parts)
    if relative.is_absolute() or ".." in relative.parts or re.search(r"[\\\0]", str(relative)):
        raise ValueError(f"the path {str(relative)!r} leads out of the data folder")
    return root / relative


def read_image(path: Path, size: int) -> np.ndarray:
    """A picture file as uint8 (size, size): grey, 16-bit scaled to 8, padded to a square with black, resized."""
    with Image.open(path) as opened:
        opened.load()
        picture = opened
        if picture.mode.startswith("I") or picture.mode == "F":
            values = np.asarray(picture, dtype=np.float64)
            top = 65_535 if values.max() > 255 else 255
            picture = Image.fromarray((values / top * 255).clip(0, 255).astype(np.uint8))
        picture = picture.convert("L")
    side = max(picture.size)
    square = Image.new("L", (side, side))
    square.paste(picture, ((side - picture.width) // 2, (side - picture.height) // 2))
    return np.asarray(square.resize((size, size), Image.Resampling.LANCZOS, reducing_gap=3.0))
