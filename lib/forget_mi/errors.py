"""The exceptions that mean 'your input is wrong', and the import of optional packages."""

from __future__ import annotations

import importlib
from types import ModuleType


class InputError(Exception):
    """Bad input: one line that names the file, row or parameter, its value, and what is allowed.

    No ValueError: it has to pass through code that catches those.
    """


class MissingExtraError(InputError, ImportError):
    """A package of one of the extras in pyproject.toml is not installed."""


def import_extra(module: str, extra: str) -> ModuleType:
    """Import a module that one of the extras installs. Raises MissingExtraError that names the
    extra."""
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if (error.name or "forget_mi").startswith("forget_mi"):
            raise
        raise missing_extra(error.name, extra) from None


def missing_extra(package: str, extra: str) -> MissingExtraError:
    """The error that names the extra of a package that is not installed."""
    return MissingExtraError(
        f"{package} is not installed; it comes with an extra: pip install 'forget-mi[{extra}]'"
    )
