"""A module a source; each has a config and a `load(settings)` that returns the same Cohort."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from forget_mi.config import build
from forget_mi.data.cohort import Cohort
from forget_mi.data.cohorts import covid_chestxray, mimic_cxr, openi, synthetic
from forget_mi.data.cohorts.custom import OwnConfig, _own
from forget_mi.data.pseudonyms import hashed
from forget_mi.errors import InputError

SOURCES = {
    "synthetic": (synthetic.SyntheticConfig, synthetic.load),
    "covid_chestxray": (covid_chestxray.CovidConfig, covid_chestxray.load),
    "mimic_cxr": (mimic_cxr.MimicConfig, mimic_cxr.load),
    "openi": (openi.OpeniConfig, openi.load),
}


def load_cohort(values: Mapping[str, Any], salt: str | None = None) -> Cohort:
    """The cohort that the `cohort` section of the params describes: `source` names it, the rest are its settings.

    salt: with which the ids of real people are hashed, unless the settings ask for plain ones (see `pseudonyms`).
    """
    settings, load = cohort_settings(values)
    cohort = load(settings)
    return cohort if salt is None or getattr(settings, "ids", "plain") == "plain" else hashed(cohort, salt)


def cohort_settings(values: Mapping[str, Any]):
    """The source's checked settings and its load function."""
    values = dict(values or {})
    source = values.pop("source", None)
    if isinstance(source, str) and ":" in source:
        return build(OwnConfig, values, "cohort"), partial(_own, source)
    if source not in SOURCES:
        raise InputError(
            f"parameter cohort.source = {source!r}: allowed are {', '.join(SOURCES)}, and package.module:name of a "
            "function that makes one"
        )
    settings, load = SOURCES[source]
    return build(settings, values, "cohort"), load


__all__ = ["SOURCES", "Cohort", "cohort_settings", "load_cohort"]
