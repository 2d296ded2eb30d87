"""The Indiana University collection (Open-i; Demner-Fushman et al., 2016): radiology reports
indexed with MeSH terms, one a patient, and the PNG or DICOM images that go with them.

The reports ship with the package torchxrayvision, so that a cohort of reports alone needs no
download; the images are the user's own. Label: normal against abnormal, or a chosen list of MeSH
terms. What is left out is listed with its reason in `Cohort.skipped`.
"""

from __future__ import annotations

import difflib
import importlib.util
import re
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import pandas as pd
from pydantic import Field

from forget_mi.config import config
from forget_mi.data.cohort import SKIPPED_COLUMNS, Cohort
from forget_mi.data.images import UnreadableImageError, inside, readable_folder
from forget_mi.data.store import FilesConfig, check_unusable, cohort_from_files
from forget_mi.errors import InputError, import_extra, missing_extra

NAME = "openi"


# Of MeSH/major: the record was looked at by no one, so that there is no label.
NOT_INDEXED = "no indexing"


NONE_OF_THESE = "none of these"


SUFFIXES = (".png", ".jpg", ".dcm")


@config
class OpeniConfig(FilesConfig):
    """root: the folder with the images (as Open-i's archives unpack: CXR1_1_IM-0001-3001.png, or
    1/1_IM-0001-3001.dcm); None: reports only, for a model with model.towers = text. reports: a
    folder or .tgz of the XML files; None: those that torchxrayvision ships. labels: 'abnormal'
    (against normal), or MeSH terms, each a class of its own beside "none of these"; a report with
    several gets the first in this order. frontal: use frontal images only. image_size: images are
    padded to a square and resized to it. The rest: FilesConfig."""

    root: Path | None = None
    reports: Path | None = None
    labels: Literal["abnormal"] | tuple[str, ...] = "abnormal"
    frontal: bool = True
    image_size: Annotated[int, Field(ge=32, le=4096)] = 256

    def __post_init__(self):
        if self.labels != "abnormal" and (
            not self.labels or len(set(self.labels)) < len(self.labels)
        ):
            raise InputError(
                f"parameter cohort.labels = {list(self.labels)}: 'abnormal', or MeSH terms, each "
                "once"
            )

    @property
    def classes(self) -> tuple[str, ...]:
        """By label."""
        return (
            ("normal", "abnormal") if self.labels == "abnormal" else (NONE_OF_THESE, *self.labels)
        )


def load(settings: OpeniConfig) -> Cohort:
    """Read the collection.

    Raises InputError where the reports or the folder of images are missing, a MeSH term occurs in
    no report, or too many files can't be used.
    """
    found, ineligible, unusable = _usable_reports(settings)
    labels = _labels(found, settings)
    reports = {record["id"]: record["text"] for record in found}
    records = [
        {"patient_id": record["id"], "study_id": record["id"], "label": label}
        for record, label in zip(found, labels, strict=True)
    ]
    if settings.root is None:
        return Cohort(
            name=NAME,
            table=pd.DataFrame(records).assign(image_id=list(reports)),
            images=np.empty((len(records), 1, 0, 0), dtype=np.uint8),
            reports=reports,
            classes=settings.classes,
            synthetic=False,
            skipped=pd.DataFrame([*ineligible, *unusable], columns=list(SKIPPED_COLUMNS)),
        )
    if not readable_folder(settings.root):
        raise InputError(
            f"parameter cohort.root = {str(settings.root)!r}: there is no such readable folder"
        )
    views = frontal_views() if settings.frontal else None
    rows, paths = [], []
    for record, row in zip(found, records, strict=True):
        if not record["images"]:
            ineligible.append((record["file"], "the report names no image"))
        for image in record["images"]:
            if views is not None and _without_number(image) not in views:
                ineligible.append((image, "not a frontal view"))
                continue
            try:
                paths.append(_image_path(settings.root, image))
            except UnreadableImageError as error:
                unusable.append((image, f"unreadable image: {error}"))
                continue
            rows.append({**row, "image_id": image})
    return cohort_from_files(
        NAME,
        settings.classes,
        rows,
        paths,
        reports,
        settings,
        ineligible=ineligible,
        unusable=unusable,
    )


def _usable_reports(
    settings: OpeniConfig,
) -> tuple[list[dict[str, Any]], list[tuple[str, str]], list[tuple[str, str]]]:
    """The reports, and by file and reason those that the rules leave out and those that can't be
    used. Raises InputError where too many can't be used, or none is left."""
    found, ineligible, unusable = [], [], []
    for name, data in report_files(settings.reports or shipped("NLMCXR_reports.tgz")):
        try:
            record = read_report(data)
        except UnreadableImageError as error:
            unusable.append((name, str(error)))
            continue
        reason = _why_not(record)
        if reason:
            ineligible.append((name, reason))
        else:
            found.append(record | {"file": name})
    source = settings.reports or "the reports"
    check_unusable(source, unusable, len(found) + len(unusable), settings.max_unreadable)
    if not found:
        raise InputError(
            f"{settings.reports}: none of {len(ineligible) + len(unusable)} reports can be used"
        )
    return found, ineligible, unusable


def shipped(name: str) -> Path:
    """A data file of torchxrayvision, found without importing that package (which takes
    seconds)."""
    spec = importlib.util.find_spec("torchxrayvision")
    if spec is None:
        raise missing_extra("torchxrayvision, which ships Open-i's reports,", "radiology")
    return Path(spec.submodule_search_locations[0]) / "data" / name


def report_files(source: Path) -> Iterator[tuple[str, bytes]]:
    """Name and content of each XML file in a folder or a tar archive (which is read in memory,
    never unpacked), in order of their numbers. Raises InputError where there is none."""
    if source.is_dir():
        content = {path.name: path.read_bytes() for path in source.rglob("*.xml")}
    else:
        try:
            with tarfile.open(source) as archive:
                members = [m for m in archive if m.isfile() and m.name.endswith(".xml")]
                content = {Path(m.name).name: archive.extractfile(m).read() for m in members}
        except (OSError, tarfile.TarError, EOFError) as error:
            raise InputError(
                f"{source}: can't be read as Open-i's reports, a folder or .tgz of XML ({error})"
            ) from None
    if not content:
        raise InputError(f"{source}: holds no XML file")
    yield from sorted(content.items(), key=lambda item: (len(item[0]), item[0]))


def read_report(data: bytes) -> dict[str, Any]:
    """One report: id, text (Impression, then Findings, one line), terms (MeSH/major), images (ids).

    Entities and external references are refused (defusedxml). Raises UnreadableImageError with the
    reason where the file is not a report.
    """
    import_extra("defusedxml", "radiology")
    from defusedxml import DefusedXmlException
    from defusedxml.ElementTree import ParseError, fromstring

    if not data:
        raise UnreadableImageError("the file is empty")
    try:
        root = fromstring(data, forbid_dtd=True)
    except (ParseError, DefusedXmlException, ValueError) as error:
        raise UnreadableImageError(f"not a report in XML: {' '.join(str(error).split())}") from None
    number = root.find("uId")
    if number is None or not re.fullmatch(r"[A-Za-z]+\d+", number.get("id", "")):
        raise UnreadableImageError("the report has no uId")
    sections = {
        section.get("Label", "").upper(): section.text or ""
        for section in root.iter("AbstractText")
    }
    return {
        "id": number.get("id"),
        "text": " ".join(
            " ".join(sections.get(name, "") for name in ("IMPRESSION", "FINDINGS")).split()
        ),
        "terms": [term.text.strip() for term in root.iter("major") if term.text],
        "images": list(dict.fromkeys(image.get("id", "") for image in root.iter("parentImage"))),
    }


def _why_not(record: dict[str, Any]) -> str | None:
    if not record["text"]:
        return "neither Impression nor Findings"
    if not record["terms"] or any(term.lower() == NOT_INDEXED for term in record["terms"]):
        return "not indexed with MeSH terms"
    return None


def _labels(found: list[dict[str, Any]], settings: OpeniConfig) -> list[int]:
    # A term may come with qualifiers: Opacity/lung/base/left.
    headings = [
        {term.split("/")[0].strip().lower() for term in record["terms"]} for record in found
    ]
    if settings.labels == "abnormal":
        return [int(terms != {"normal"}) for terms in headings]
    known = set().union(*headings)
    for term in settings.labels:
        if term.lower() not in known:
            raise InputError(
                f"parameter cohort.labels: no report is indexed with {term!r}; "
                f"{_close_to(term, known)}"
            )
    return [
        next(
            (label for label, term in enumerate(settings.labels, start=1) if term.lower() in terms),
            0,
        )
        for terms in headings
    ]


def _close_to(term: str, known: set[str]) -> str:
    near = difflib.get_close_matches(term.lower(), known, n=5, cutoff=0.4)
    return (
        f"near it are {', '.join(near)}"
        if near
        else f"among the {len(known)} terms are {', '.join(sorted(known)[:5])}"
    )


def frontal_views() -> set[str]:
    """Ids (as DICOM headers have them) of the images taken to be frontal: those in
    torchxrayvision's cluster of PA images or, where its clustering is silent, PA or AP in the DICOM
    header. The headers come second, since they are wrong now and then (both images of CXR1 are PA
    in them; its report says PA and lateral)."""
    headers = pd.read_csv(
        shipped("nlmcxr_dicom_metadata.csv.gz"), dtype=str, usecols=["imageid", "View Position"]
    )
    headers = headers.set_index("imageid")["View Position"]
    clustered = pd.read_csv(shipped("nlmcxr_tsne_pa.csv.gz"), dtype=str)
    clustered = clustered.set_index(clustered.imageid.map(_without_number))["tsne-view"]
    views = clustered.combine_first(headers)
    return set(views.index[views.isin(["PA", "AP"])])


def _without_number(image: str) -> str:
    """The id as DICOM headers have it: CXR1_1_IM-0001-3001 -> CXR1_IM-0001-3001."""
    return re.sub(r"^(CXR\d+)_\d+_", r"\1_", image)


def _image_path(root: Path, image: str) -> Path:
    """The file of an image, named as in the PNG or in the DICOM archive; UnreadableImageError where
    there is none."""
    number, _, rest = _without_number(image).removeprefix("CXR").partition("_")
    names = [(image + suffix,) for suffix in SUFFIXES] + [
        (number, f"{number}_{rest}.dcm"),
        (f"{number}_{rest}.dcm",),
    ]
    paths = [inside(root, *name) for name in names]
    path = next((path for path in paths if path.is_file()), None)
    if path is None:
        raise UnreadableImageError("the file is missing")
    return path
