"""Cohorts: a module a source, all loaded the same way (see `registry`)."""

from forget_mi.lazy import lazy_exports

__getattr__, __dir__, __all__ = lazy_exports(
    __name__, {"registry": "SOURCES cohort_settings load_cohort"}
)
