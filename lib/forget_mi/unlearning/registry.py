"""The registry of unlearning methods: a module a method, found by name.

A method's module offers `Config`, a frozen dataclass of its settings, `SEARCH`, what a search may
try of them, and

    unlearn(model, data, settings, *, seed, accelerator, progress=True) -> (model, UnlearningLog)

with F_og as the model (left as it is), and D_f, D_r and D_v as `UnlearningData`.
"""

from __future__ import annotations

import importlib
from types import ModuleType
from typing import get_args, get_type_hints

from forget_mi.errors import InputError

METHODS = (
    "forget_mi",
    "held_out_targets",
    "fine_tune",
    "neg_grad",
    "neg_grad_plus",
    "scrub",
    "cf_k",
    "eu_k",
    "multi_delete",
    "salun",
    "random_labels",
    "bad_teacher",
    "ssd",
    "retrain",
)


def approaches() -> tuple[str, ...]:
    """Every way to unlearn, as folders and tables name it: a method, or method-setting where it has
    settings."""
    names = []
    for method in METHODS:
        settings = get_type_hints(get_method(method).Config).get("setting")
        names += [f"{method}-{setting}" for setting in get_args(settings)] if settings else [method]
    return tuple(names)


def parse_approach(approach: str) -> tuple[str, str | None]:
    """Method and setting (None where it has none) of an approach. Raises InputError for an unknown
    one."""
    if approach not in approaches():
        raise InputError(f"unlearning approach {approach!r}: allowed are {', '.join(approaches())}")
    method, _, setting = approach.partition("-")
    return method, setting or None


def needs_references(method: str, setting: str | None) -> bool:
    """Whether a method, in a setting, learns from reference models."""
    return method == "held_out_targets" or setting == "held_out"


def get_method(name: str) -> ModuleType:
    """The module of a method. Raises InputError where there is none of that name."""
    if name not in METHODS:
        raise InputError(
            f"parameter unlearning.method = {name!r}: allowed are {', '.join(METHODS)}"
        )
    return importlib.import_module(f"forget_mi.unlearning.{name}")
