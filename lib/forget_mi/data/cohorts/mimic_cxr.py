"""MIMIC-CXR with edema severities, as published on PhysioNet (Johnson et al., 2019; Horng et al.,
2021): DICOM or JPG images, report files, and the label CSV with folds.

    files/p10/p10000032/s50414267/<dicom_id>.dcm   (or .jpg) files/p10/p10000032/s50414267.txt a CSV
    with subject_id, study_id, dicom_id, edema_severity (or edeme_severity), fold (1-5 or TEST)
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from forget_mi.config import config
from forget_mi.data.cohort import Cohort
from forget_mi.data.images import UnreadableImageError, inside, readable_folder
from forget_mi.data.reports import report_text
from forget_mi.data.store import FilesConfig, cohort_from_files
from forget_mi.data.tables import read_table
from forget_mi.errors import InputError

CLASSES = ("none", "vascular congestion", "interstitial edema", "alveolar edema")


COLUMNS = ("subject_id", "study_id", "dicom_id", ("edema_severity", "edeme_severity"), "fold")


@config
class MimicConfig(FilesConfig):
    """root: the folder that holds files/. labels: the CSV (relative: below root). images: which
    files to read; auto takes the DICOM where there is one, else the JPG. image_size: pictures are
    padded to a square and resized to it. The rest: FilesConfig."""

    root: Path
    labels: Path = Path("mimic-cxr-edema.csv")
    images: Literal["auto", "dicom", "jpg"] = "auto"
    image_size: Annotated[int, Field(ge=32, le=4096)] = 512


def load(settings: MimicConfig) -> Cohort:
    """Read the collection. The published folds are the column `fold` (TEST or the number).

    Raises InputError where the root or the CSV is missing or malformed, or too many images or
    reports can't be used.
    """
    root = settings.root
    if not readable_folder(root / "files"):
        raise InputError(
            f"parameter cohort.root = {str(root)!r}: there is no readable folder {root / 'files'}"
        )
    labels = read_table(root / settings.labels, COLUMNS, "MIMIC-CXR's edema labels")
    ineligible, unusable = [], []
    rows, paths, reports = [], [], {}
    twice = Counter(labels.dicom_id)
    tested = set(labels.subject_id[labels.fold.str.upper() == "TEST"])
    for row in labels.to_dict("records"):
        item = row["dicom_id"] or f"line {row['line']}"
        try:
            record = _record(row, twice)
            folder = ("files", f"p{row['subject_id'][:2]}", f"p{row['subject_id']}")
            path = _image_path(
                root, (*folder, f"s{row['study_id']}"), row["dicom_id"], settings.images
            )
            report = _report(inside(root, *folder, f"s{row['study_id']}.txt"))
        except UnreadableImageError as error:
            unusable.append((item, str(error)))
            continue
        if record["fold"] != "TEST" and row["subject_id"] in tested:
            ineligible.append((item, "the patient is in TEST too: one person on two sides"))
            continue
        reports[record["study_id"]] = report
        rows.append(record)
        paths.append(path)
    return cohort_from_files(
        "mimic_cxr",
        CLASSES,
        rows,
        paths,
        reports,
        settings,
        ineligible=ineligible,
        unusable=unusable,
    )


def _record(row: dict[str, str], twice: Counter) -> dict[str, object]:
    """A row of the cohort's table; UnreadableImageError with the reason where the line can't be
    used."""
    for name in ("subject_id", "study_id", "dicom_id"):
        if not row[name]:
            raise UnreadableImageError(f"{name} is empty (line {row['line']})")
    if twice[row["dicom_id"]] > 1:
        raise UnreadableImageError("the image id stands in more than one row")
    try:
        label = int(float(row["edema_severity"]))
    except ValueError:
        label = -1
    if label not in range(len(CLASSES)) or float(row["edema_severity"]) != label:
        raise UnreadableImageError(
            f"severity {row['edema_severity'] or 'missing'}, not 0 to {len(CLASSES) - 1}"
        )
    fold = row["fold"].upper()
    if fold != "TEST" and fold not in "12345":
        raise UnreadableImageError(f"fold {row['fold'] or 'missing'}, not 1 to 5 or TEST")
    return {
        "patient_id": row["subject_id"],
        "study_id": row["study_id"],
        "image_id": row["dicom_id"],
        "label": label,
        "fold": fold,
    }


def _image_path(root: Path, folder: tuple[str, ...], name: str, image_format: str) -> Path:
    kinds = {"dicom": (".dcm",), "jpg": (".jpg",), "auto": (".dcm", ".jpg")}[image_format]
    candidates = [inside(root, *folder, name + kind) for kind in kinds]
    return next((path for path in candidates if path.exists()), candidates[0])


def _report(path: Path) -> str:
    """The report's text for the model; UnreadableImageError with the reason where there is none."""
    try:
        data = path.read_bytes()
    except OSError:
        raise UnreadableImageError("the report is missing") from None
    try:
        text = report_text(data.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise UnreadableImageError(f"the report is not UTF-8 (byte {error.start})") from None
    if not text:
        raise UnreadableImageError("the report is empty")
    return text
