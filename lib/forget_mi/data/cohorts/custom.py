"""A cohort of one's own: what it must offer, and how it becomes a `Cohort`
(docs/your-own-cohort.md)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np
import pandas as pd
from pydantic import Field

from forget_mi.config import config
from forget_mi.data.cohort import Cohort
from forget_mi.errors import InputError


@runtime_checkable
class CohortContract(Protocol):
    """table: a row an image, with patient_id, study_id, image_id, label (whole numbers from 0).
    images: uint8 (n, 1, height, width), an array or anything that gives such arrays by rows; None
    where there are reports only. reports: text by study_id. classes: their names."""

    table: pd.DataFrame
    images: np.ndarray | None
    reports: Mapping[str, str] | None
    classes: Sequence[str]


def as_cohort(made: Any, name: str) -> Cohort:
    """A cohort of one's own (CohortContract) as the library's.

    Raises InputError where something is missing or malformed (a column, a label, a report, the
    images' shape or type).
    """
    if isinstance(made, Cohort):
        return made
    missing = [field for field in CohortContract.__annotations__ if not hasattr(made, field)]
    if missing:
        raise InputError(
            f"cohort {name}: a {type(made).__name__} lacks {', '.join(missing)} (see "
            "contract.CohortContract)"
        )
    table, n = made.table.reset_index(drop=True), len(made.table)
    images = np.zeros((n, 1, 0, 0), np.uint8) if made.images is None else made.images
    if len(images.shape) != 4 or images.shape[1] != 1:
        raise InputError(
            f"cohort {name}: its images have shape {tuple(images.shape)}, not ({n}, 1, height, "
            "width)"
        )
    if images.dtype != np.uint8:
        raise InputError(
            f"cohort {name}: its images are {images.dtype}; allowed is uint8, 0 to 255"
        )
    reports = made.reports
    if reports is None and "study_id" in table:  # images alone
        reports = dict.fromkeys(table.study_id, "no report")
    return Cohort(
        name,
        table,
        images,
        dict(reports or {}),
        tuple(made.classes),
        getattr(made, "synthetic", False),
    )


@config
class CustomConfig:
    """arguments: of the function that makes the cohort. ids: hashed, or plain as they come (of
    made-up people)."""

    arguments: dict[str, Any] = Field(default_factory=dict)
    ids: Literal["hashed", "plain"] = "hashed"


def load(source: str, settings: CustomConfig) -> Cohort:
    """The cohort that the function 'package.module:name' returns for the settings' arguments."""
    from forget_mi.config import import_object
    from forget_mi.data.cohorts.custom import as_cohort

    return as_cohort(
        import_object(source, "cohort.source")(**settings.arguments), source.partition(":")[2]
    )
