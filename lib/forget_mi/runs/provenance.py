"""Where a result comes from: code, packages, machine, time."""

from __future__ import annotations

import importlib.metadata
import platform
import subprocess
import time
from collections.abc import Mapping
from typing import Any

from forget_mi.runs.project import ROOT
from forget_mi.source_code import code_fingerprint

PACKAGES = ("torch", "torchvision", "transformers", "accelerate", "scikit-learn", "numpy", "pandas")


def first_difference(old: Any, new: Any, name: str) -> tuple[str, Any, Any]:
    """Dotted name and both values of the first place where two nested mappings differ."""
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        for key in {**old, **new}:
            if old.get(key) != new.get(key):
                return first_difference(old.get(key), new.get(key), f"{name}.{key}")
    return name, old, new


def provenance() -> dict[str, Any]:
    """Code version (git commit where there is one, and the library's fingerprint), package
    versions, machine, time."""
    commit = subprocess.run(
        ["git", "describe", "--always", "--dirty"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    ).stdout.strip()
    return {
        "code": {"commit": commit or None, "library": code_fingerprint()},
        "packages": {name: importlib.metadata.version(name) for name in PACKAGES},
        "python": platform.python_version(),
        "finished": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
    }
