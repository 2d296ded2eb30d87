"""MedPix 2.0 (Siragusa et al., 2025, arXiv 2407.02994) as cloned: CT and MR images of the National
Library of Medicine's teaching cases, with each case's history and each image's caption.

A case stands for a patient. The text is the age, the sex, the case's history and the image's
caption; title, findings, diagnoses and discussion name the answer and are never read. The label is
a group of diagnoses (`Topic.Category`) or the region of the body. What is left out is listed with
its reason in `Cohort.skipped`.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from forget_mi.config import config
from forget_mi.data.cohort import Cohort
from forget_mi.data.images import UnreadableImageError, inside, is_lfs_pointer, readable_folder
from forget_mi.data.store import FilesConfig, cohort_from_files
from forget_mi.errors import InputError

CASES, IMAGES = "Case_topic.json", "Descriptions.json"

REPOSITORY = "https://github.com/CHILab1/MedPix-2.0"

# Of a clone: the folder that holds the files.
PUBLISHED = "MedPix-2-0"

GROUPS = {
    "neoplasm": ("Neoplasm*", "Cyst*"),
    # Normal variants come under both names.
    "congenital": ("Congenital*", "Anatomy*"),
    "trauma": ("Trauma*", "Iatrogenic*"),
    "vascular": (
        "Vascular*",
        "Infarction*",
        "Hypoxic*",
        "Ischemia*",
        "Aneurysm*",
        "Hemorrhage*",
        "Embolism*",
        "Thrombosis*",
    ),
    "infection or inflammation": ("Infection*", "Inflammatory*"),
}

NOTHING = ("", "n/a", "na", "none")


@config
class MedpixConfig(FilesConfig):
    """root: a clone of the published repository, or its folder MedPix-2-0. labels: 'category' for
    groups of diagnoses, 'region' for the part of the body. groups: by class, the patterns (* for
    anything) of the categories in it; a category goes to the first class that it fits, and cases of
    no class are left out. image_size: images are padded to a square and resized to it. The rest:
    FilesConfig."""

    root: Path
    labels: Literal["category", "region"] = "category"
    groups: dict[str, tuple[str, ...]] = Field(default_factory=lambda: dict(GROUPS))
    image_size: Annotated[int, Field(ge=32, le=2048)] = 64

    def __post_init__(self):
        empty = [name for name, patterns in self.groups.items() if not patterns]
        if len(self.groups) < 2 or empty:
            raise InputError(
                f"parameter cohort.groups = {self.groups}: needs at least two classes, each with a "
                "pattern"
            )


def load(settings: MedpixConfig) -> Cohort:
    """Read the collection.

    Raises InputError where a file is missing, cut short or a Git LFS pointer, a group fits no
    category, or too many images are unreadable.
    """
    root = _folder(settings.root)
    skipped: list[tuple[str, str]] = []
    cases = _by_id(_entries(root / CASES, ("U_id", "Case", "Topic")), skipped)
    described = _entries(root / IMAGES, ("U_id", "image", "Description"))
    classes = _classes(settings, cases, described)
    rows, paths, reports = [], [], {}
    unreadable, studies, owner = [], {}, {}
    for entry in described:
        name, case = str(entry["image"]), str(entry["U_id"])
        label, reason = _label(settings, classes, cases.get(case), entry)
        text = _text(cases[case], entry) if case in cases else ""
        if name in owner:
            # One file under two cases would stand on two sides of a split.
            same = owner[name] == case
            reason = f"the image stands in an earlier entry{'' if same else ' of another case'}"
        elif reason is None and not text:
            reason = "neither history nor caption"
        owner.setdefault(name, case)
        if reason is not None:
            skipped.append((name, reason))
            continue
        try:
            path = inside(root, "images", f"{name}.png")
        except UnreadableImageError as error:
            unreadable.append((name, f"unreadable image: {error}"))
            continue
        study = studies.setdefault((case, text), f"{case}-{len(studies):04d}")
        reports[study] = text
        rows.append({"patient_id": case, "study_id": study, "image_id": name, "label": label})
        rows[-1] |= _facts(entry)
        paths.append(path)
    shown = set(owner.values())
    for case, entry in cases.items():
        named = [str(name) for kind in ("TAC", "MRI") for name in entry.get(kind) or ()]
        skipped += [(name, f"no entry in {IMAGES}") for name in named if name not in owner]
        if case not in shown and not named:
            skipped.append((case, "the case has no image"))
    return cohort_from_files(
        "medpix", classes, rows, paths, reports, settings, ineligible=skipped, unusable=unreadable
    )


def _folder(root: Path) -> Path:
    """Where the files lie below a clone. Raises InputError where they don't."""
    found = next((f for f in (root, root / PUBLISHED) if (f / CASES).is_file()), None)
    if found is None:
        raise InputError(
            f"parameter cohort.root = {str(root)!r}: holds no {CASES}, here or in {PUBLISHED}; "
            f"clone {REPOSITORY} and give its path"
        )
    if not readable_folder(found / "images"):
        raise InputError(
            f"{found}: has no readable folder images; clone {REPOSITORY} whole, without a filter"
        )
    return found


def _entries(path: Path, needed: Sequence[str]) -> list[dict[str, Any]]:
    """The list of records in a JSON file. Raises InputError for anything else."""
    try:
        text = path.read_bytes().decode()
        if is_lfs_pointer(path):
            raise InputError(f"{path}: is a Git LFS pointer, not the file; run git lfs pull")
        found = json.loads(text)
    except (OSError, ValueError) as error:
        raise InputError(
            f"{path}: can't be read as MedPix's JSON ({' '.join(str(error).split())})"
        ) from None
    if not isinstance(found, list) or not found:
        raise InputError(f"{path}: holds no list of records")
    for number, entry in enumerate(found):
        missing = [key for key in needed if not isinstance(entry, dict) or not entry.get(key)]
        if missing:
            raise InputError(f"{path}: record {number} lacks {', '.join(missing)}")
    return found


def _by_id(
    cases: Sequence[dict[str, Any]], skipped: list[tuple[str, str]]
) -> dict[str, dict[str, Any]]:
    """The cases by id; of two with the same id the first, and the other is noted in `skipped`."""
    found: dict[str, dict[str, Any]] = {}
    for entry in cases:
        case = str(entry["U_id"])
        if case in found:
            skipped.append((case, "the case stands in an earlier entry"))
        found.setdefault(case, entry)
    return found


def _classes(
    settings: MedpixConfig, cases: Mapping[str, dict[str, Any]], described: Sequence[dict[str, Any]]
) -> tuple[str, ...]:
    """The names of the labels. Raises InputError where a group fits no category."""
    if settings.labels == "region":
        return tuple(sorted({_said(entry, "Location Category") for entry in described} - {""}))
    known = sorted({_said(case["Topic"], "Category") for case in cases.values()} - {""})
    for name, patterns in settings.groups.items():
        if not any(_group(settings.groups, category) == name for category in known):
            first = patterns[0].strip("*")
            near = difflib.get_close_matches(first, known, n=5, cutoff=0.4) or known[:5]
            raise InputError(
                f"parameter cohort.groups: {name} ({', '.join(patterns)}) fits no category, or "
                f"none that an earlier group leaves; categories are such as {'; '.join(near)}"
            )
    return tuple(settings.groups)


def _group(groups: Mapping[str, Sequence[str]], category: str) -> str | None:
    """The first group with a pattern that a category fits, whatever the case of its letters."""
    category = category.lower()
    return next(
        (
            name
            for name, patterns in groups.items()
            if any(fnmatchcase(category, pattern.lower()) for pattern in patterns)
        ),
        None,
    )


def _label(
    settings: MedpixConfig,
    classes: Sequence[str],
    case: dict[str, Any] | None,
    entry: dict[str, Any],
) -> tuple[int, str | None]:
    """The number of an image's class, and why it has none."""
    if case is None:
        return -1, "no case has the image's id"
    if settings.labels == "region":
        name = _said(entry, "Location Category")
        return (classes.index(name), None) if name else (-1, "no region of the body")
    category = _said(case["Topic"], "Category")
    name = _group(settings.groups, category)
    return (
        (-1, f"its category is in no group: {category or 'empty'}")
        if name is None
        else (classes.index(name), None)
    )


def _text(case: dict[str, Any], entry: dict[str, Any]) -> str:
    """What the model reads of an image; empty where neither history nor caption say anything."""
    about = entry["Description"]
    told = [_said(case["Case"], "History"), _said(about, "Caption")]
    if not any(told):
        return ""
    age, sex = _said(about, "Age"), _said(about, "Sex")
    person = ", ".join(part for part in (f"age {age}" if age else "", sex) if part)
    return " ".join(part for part in (f"{person}." if person else "", *told) if part)


def _facts(entry: dict[str, Any]) -> dict[str, str]:
    """Columns of the table that say more of an image."""
    about = entry["Description"]
    return {
        "sex": {"male": "M", "female": "F"}.get(_said(about, "Sex").lower(), ""),
        "modality": _said(entry, "Type"),
        "view": _said(about, "Plane"),
        "region": _said(entry, "Location Category"),
    }


def _said(record: Mapping[str, Any], key: str) -> str:
    """A field's text on one line, empty where it says nothing."""
    value = record.get(key)
    text = " ".join(str("" if value is None else value).split())
    return "" if text.lower() in NOTHING else text
