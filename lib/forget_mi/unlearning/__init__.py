"""A module a method, all called the same way and found by name.

A method's module offers `Config`, a frozen dataclass of its settings, `SEARCH`, what a search may try of them, and

    unlearn(model, data, settings, *, seed, accelerator, progress=True) -> (model, UnlearningLog)

with F_og as the model (left as it is), and D_f, D_r and D_v as `UnlearningData`.
"""

from __future__ import annotations

import importlib
from types import ModuleType

from forget_mi.errors import InputError
from forget_mi.unlearning.base import UnlearningData, UnlearningLog

METHODS = (
    "forget_mi",
    "fine_tune",
    "neg_grad",
    "neg_grad_plus",
    "scrub",
    "cf_k",
    "eu_k",
    "multi_delete",
    "salun",
    "ssd",
    "retrain",
)


def find(name: str) -> ModuleType:
    """The module of a method. Raises InputError where there is none of that name."""
    if name not in METHODS:
        raise InputError(f"parameter unlearning.method = {name!r}: allowed are {', '.join(METHODS)}")
    return importlib.import_module(f"forget_mi.unlearning.{name}")


__all__ = ["METHODS", "UnlearningData", "UnlearningLog", "find"]
