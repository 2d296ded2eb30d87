"""The registry of cohorts: a module a source; each has a config and a `load(settings)` that returns
a Cohort."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from forget_mi.config import build
from forget_mi.data.cohort import Cohort
from forget_mi.data.cohorts import covid_chestxray, custom, medpix, mimic_cxr, openi, synthetic
from forget_mi.data.pseudonyms import pseudonymize
from forget_mi.errors import InputError

SOURCES = {
    "synthetic": (synthetic.SyntheticConfig, synthetic.load),
    "covid_chestxray": (covid_chestxray.CovidConfig, covid_chestxray.load),
    "mimic_cxr": (mimic_cxr.MimicConfig, mimic_cxr.load),
    "medpix": (medpix.MedpixConfig, medpix.load),
    "openi": (openi.OpeniConfig, openi.load),
}


def load_cohort(values: Mapping[str, Any], salt: str | None = None) -> Cohort:
    """The cohort that a mapping describes: `source` names it, the rest are its settings.

    salt: by which the ids of real people are hashed, unless the settings ask for plain ones (see
    `pseudonyms`).
    """
    settings = {name: value for name, value in values.items() if name != "source"}
    kind, load = cohort_settings(values.get("source"))
    settings = build(kind, settings, "cohort")
    cohort = load(settings)
    return (
        cohort
        if salt is None or getattr(settings, "ids", "plain") == "plain"
        else pseudonymize(cohort, salt)
    )


def cohort_settings(source: Any) -> tuple[type, Callable[[Any], Cohort]]:
    """The config class of a source and its load function. Raises InputError for an unknown
    source."""
    if isinstance(source, str) and ":" in source:
        return custom.CustomConfig, partial(custom.load, source)
    if source not in SOURCES:
        raise InputError(
            f"parameter cohort.source = {source!r}: allowed are {', '.join(SOURCES)}, and "
            "package.module:name of a function that makes one"
        )
    return SOURCES[source]
