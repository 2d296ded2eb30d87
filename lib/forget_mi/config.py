"""Parameters: small frozen dataclasses that say their own limits, and one way to fill them from a
mapping."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import fields
from typing import Any, TypeVar

from pydantic import ConfigDict, ValidationError
from pydantic.dataclasses import dataclass

from forget_mi.errors import InputError

T = TypeVar("T")


def config(cls: type[T]) -> type[T]:
    """Make a class a frozen dataclass whose values are checked against their annotations when it is
    built."""
    return dataclass(
        cls, frozen=True, kw_only=True, config=ConfigDict(extra="forbid", validate_default=True)
    )


def build(cls: type[T], values: Mapping[str, Any] | None, where: str) -> T:
    """Build a config from a mapping read from YAML.

    where: the section's name, put in front of a parameter's name in errors.
    Raises InputError that names the parameter, its value and what is allowed.
    """
    values = {} if values is None else values
    if not isinstance(values, Mapping):
        raise InputError(f"{where}: {values!r} is not a mapping of parameters to values")
    names = [f.name for f in fields(cls)]
    unknown = [name for name in values if name not in names]
    if unknown:
        name = unknown[0]
        raise InputError(
            f"unknown parameter {where}.{name} = {values[name]!r}; allowed are {', '.join(names)}"
        )
    try:
        return cls(**values)
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join([where, *(str(part) for part in first["loc"])])
        raise InputError(f"parameter {name} = {first['input']!r}: {first['msg']}") from None


def import_object(name: str, parameter: str) -> Any:
    """What 'package.module:name' names. Raises InputError where it can't be imported."""
    module, _, attribute = str(name).partition(":")
    try:
        return getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        raise InputError(
            f"parameter {parameter} = {name!r}: can't be imported ({error}); write "
            "package.module:name, of a module that Python finds (PYTHONPATH, or installed beside "
            "forget_mi)"
        ) from None
