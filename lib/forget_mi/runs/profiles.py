"""Profiles: one YAML file in params/ holds every parameter of a run."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from forget_mi.errors import InputError
from forget_mi.runs.params import SECTIONS, Params, resolve
from forget_mi.runs.project import ROOT


def load_profile(profile: str | Path, overrides: Mapping[str, Any] | None = None) -> Params:
    """Read a profile by its name in params/ or by a path, change what `overrides` says, check
    everything.

    overrides: dotted names to values, {'unlearning.epochs': 4}. One of request.fraction,
    request.patients and request.csv replaces the profile's request. Raises InputError that names
    the file or parameter, its value, and what is allowed.
    """
    values, overrides = read_yaml(profile), overrides or {}
    # A request is given in one way: one that is overridden takes the place of the profile's.
    ways = [f"request.{way}" for way in ("fraction", "patients", "csv")]
    if any(overrides.get(way) is not None for way in ways) and isinstance(
        values.get("request"), dict
    ):
        values["request"] = {
            name: value
            for name, value in values["request"].items()
            if f"request.{name}" not in ways
        }
    for name, value in overrides.items():
        set_dotted(values, name, value)
    return resolve(values, Path(profile).stem)


def read_yaml(profile: str | Path) -> dict[str, Any]:
    """The mapping in a profile's file, unchecked."""
    path = Path(profile)
    if path.suffix not in (".yaml", ".yml"):
        if not (ROOT / "params").is_dir():
            raise InputError(
                f"profile {str(profile)!r}: profiles lie in params/ of a clone of the project, and "
                "this is an installation without one; pip install -e '.[all]' in a clone"
            )
        path = ROOT / "params" / f"{profile}.yaml"
    try:
        values = yaml.safe_load(path.read_text())
    except FileNotFoundError:
        known = sorted(p.stem for p in (ROOT / "params").glob("*.yaml"))
        raise InputError(
            f"profile {str(profile)!r}: there is no {path}; known profiles: {', '.join(known)}"
        ) from None
    except (OSError, yaml.YAMLError) as error:
        raise InputError(
            f"{path}: can't be read as YAML ({' '.join(str(error).split())})"
        ) from None
    if not isinstance(values, dict):
        raise InputError(f"{path}: holds no mapping of sections ({', '.join(SECTIONS)})")
    return values


def set_dotted(values: dict[str, Any], name: str, value: Any) -> None:
    """values['a']['b'] = value for the name 'a.b'."""
    *parents, last = str(name).split(".")
    for parent in parents:
        values = values.setdefault(parent, {})
        if not isinstance(values, dict):
            raise InputError(f"unknown parameter {name} = {value!r}: {parent} is not a section")
    values[last] = value


def tuned_by(profile: str | Path) -> str | None:
    """The file in params/tuned from which a profile takes the settings of its methods, or None."""
    return (read_yaml(profile).get("unlearning") or {}).get("tuned")
