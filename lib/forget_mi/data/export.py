"""A cohort written to disk in MIMIC-CXR's own layout, so that the path of the real collection can
be tried with one that anybody may have."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
from PIL import Image

from forget_mi.data.cohort import Cohort
from forget_mi.errors import InputError, import_extra
from forget_mi.files import replace_when_whole, sha256_of_text, write_text

LABELS = "mimic-cxr-edema.csv"


def export_cohort(
    cohort: Cohort, folder: Path, kind: Literal["dicom", "jpg"] = "dicom"
) -> pd.DataFrame:
    """Write files/, reports and the label CSV of a cohort under `folder`; return the table of the
    CSV.

    Patients and studies get numbers as MIMIC-CXR has them, in the order of the table. DICOM: 12 of
    16 bits, every fifth image MONOCHROME1, so that reading inverts it; uint8 pixels come back
    exactly. jpg: 8 bits, quality 100; pixels come back within a few levels. fold: TEST where the
    cohort's split says test, else 1 to 5 by patient.

    Raises InputError where the folder already holds files/: nothing is mixed or overwritten.
    """
    folder = Path(folder)
    if (folder / "files").exists():
        raise InputError(f"{folder}: already holds files/; export into an empty folder")
    if kind not in ("dicom", "jpg"):
        raise InputError(f"export: kind {kind!r}; allowed are dicom, jpg")
    table = cohort.table
    patients = {name: 10_000_000 + number for number, name in enumerate(table.patient_id.unique())}
    studies = {name: 50_000_000 + number for number, name in enumerate(table.study_id.unique())}
    rows = []
    with replace_when_whole(folder / "files") as temporary:
        for number, row in enumerate(table.itertuples()):
            subject, study = patients[row.patient_id], studies[row.study_id]
            home = temporary / f"p{str(subject)[:2]}" / f"p{subject}" / f"s{study}"
            home.mkdir(parents=True, exist_ok=True)
            (home.parent / f"s{study}.txt").write_text(
                f" FINAL REPORT\n\n IMPRESSION:  {cohort.reports[row.study_id]}\n"
            )
            digits = sha256_of_text(row.image_id)
            name = "-".join(digits[8 * i : 8 * i + 8] for i in range(5))
            picture = np.asarray(cohort.images[number])[0]
            if kind == "dicom":
                write_dicom(
                    home / f"{name}.dcm",
                    picture,
                    str(subject),
                    str(study),
                    inverted=number % 5 == 4,
                )
            else:
                Image.fromarray(picture).save(home / f"{name}.jpg", quality=100)
            fold = "TEST" if getattr(row, "split", "") == "test" else str(subject % 5 + 1)
            rows.append((subject, study, name, row.label, fold))
    labels = pd.DataFrame(
        rows, columns=["subject_id", "study_id", "dicom_id", "edeme_severity", "fold"]
    )
    write_text(folder / LABELS, labels.to_csv(index=False))
    return labels


def write_dicom(path: Path, picture: np.ndarray, patient: str, study: str, inverted: bool) -> None:
    """A minimal Digital X-Ray image, 12 bits stored, with a window over all of them."""
    import_extra("pydicom", "radiology")
    from pydicom.dataset import FileDataset, FileMetaDataset
    from pydicom.uid import DigitalXRayImageStorageForPresentation, ExplicitVRLittleEndian

    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = DigitalXRayImageStorageForPresentation
    # A UID below the root that is free for anyone (2.25), from the path's name: the same cohort,
    # the same files.
    meta.MediaStorageSOPInstanceUID = f"2.25.{int(sha256_of_text(path.stem)[:30], 16)}"
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    file = FileDataset(str(path), {}, file_meta=meta, preamble=b"\0" * 128)
    file.SOPClassUID, file.SOPInstanceUID = (
        meta.MediaStorageSOPClassUID,
        meta.MediaStorageSOPInstanceUID,
    )
    file.PatientID, file.StudyID, file.Modality = patient, study, "DX"
    file.Rows, file.Columns = picture.shape
    file.SamplesPerPixel, file.PixelRepresentation = 1, 0
    file.BitsAllocated, file.BitsStored, file.HighBit = 16, 12, 11
    file.WindowCenter, file.WindowWidth = 2048, 4096
    file.PhotometricInterpretation = "MONOCHROME1" if inverted else "MONOCHROME2"
    values = np.round(picture.astype(np.float64) / 255 * 4095).astype(np.uint16)
    file.PixelData = (4095 - values if inverted else values).astype(np.uint16).tobytes()
    file.save_as(path, enforce_file_format=True)
