"""The grid of approaches, sizes of request and seeds, and what has come out of it so far."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from forget_mi.runs import (
    ROOT,
    Params,
    Run,
    SweepConfig,
    approach_overrides,
    load_profile,
    open_run,
    tuned_by,
)
from forget_mi.unlearning import approaches


@dataclass(frozen=True)
class Sweep:
    """A sweep of a profile: a folder with one run folder a seed and size of request, and the
    comparison over them.

    params: of the profile. own: the approach that the profile itself names. tuned: the file in
    params/tuned that it takes settings from.
    """

    profile: str
    overrides: Mapping[str, Any]
    folder: Path
    params: Params
    own: str
    tuned: str | None

    @property
    def grid(self) -> SweepConfig:
        """What is compared."""
        return self.params.sweep

    @property
    def approaches(self) -> tuple[str, ...]:
        """The approaches that are compared, by name."""
        return self.grid.approaches or tuple(name for name in approaches() if name != "retrain")

    def names(self) -> dict[str, dict[str, Any]]:
        """The runs by folder name, with what they override. Of each seed, the first goes ahead: it
        trains the original model that the others take over."""
        # Every approach is a job of its own, and none runs beside another.
        shared = {**self.overrides, "beside": [], "audit.approaches": list(self.approaches)}
        largest = max(self.grid.fractions)
        return {
            f"seed{seed}-{100 * fraction:g}pct": {
                **shared,
                "seed": seed,
                "request.fraction": fraction,
            }
            | ({"audit.u_lira": self.grid.u_lira} if fraction == largest else {})
            for seed in self.grid.seeds
            for fraction in self.grid.fractions
        }

    def trains_first(self, name: str) -> str | None:
        """The run that trains the original of this one, or None where that is itself."""
        seed = name.split("-")[0]
        first = next(other for other in self.names() if other.split("-")[0] == seed)
        return None if first == name else first

    def run(self, name: str, approach: str | None = None) -> Run:
        """One of the runs, with the settings of an approach."""
        return open_run(self.profile, self.folder / name, self.changes(name, approach))

    def changes(self, name: str, approach: str | None = None) -> dict[str, Any]:
        """What a run overrides. approach: with its method and setting, and what was tuned for it,
        in place of the profile's own (which keeps what the profile says)."""
        changes = dict(self.names()[name])
        if approach is None or approach == self.own:
            return changes
        changes = {
            key: value for key, value in changes.items() if not key.startswith("unlearning.")
        }
        return changes | approach_overrides(approach, self.tuned)

    def audited(self) -> list[str]:
        """The runs whose audit is finished."""
        return [
            name
            for name in self.names()
            if (self.folder / name / "04_audit" / "manifest.json").is_file()
        ]

    def failed(self) -> dict[str, str]:
        """The cells that stopped with an error: run/approach to the error."""
        found = {}
        for path in sorted(self.folder.glob("*/03_unlearn/*/outcome.json")):
            outcome = json.loads(path.read_text())
            if not outcome["ok"]:
                found[f"{path.parents[2].name}/{path.parent.name}"] = outcome["error"]
        return found

    def clear_failures(self) -> None:
        """Let the cells that failed be tried again."""
        for name in self.failed():
            run, approach = name.split("/")
            (self.folder / run / "03_unlearn" / approach / "outcome.json").unlink()


def open_sweep(
    profile: str | Path,
    folder: str | Path | None = None,
    overrides: Mapping[str, Any] | None = None,
    check: bool = True,
) -> Sweep:
    """The sweep of a profile, in runs/sweep/<profile> or in a folder (relative to the project).

    check: every cell of the grid, before anything runs; raises InputError where one has impossible
    parameters.
    """
    run = open_run(profile, overrides=overrides)
    where = ROOT / (folder or f"runs/sweep/{run.params.profile}")
    tuned = tuned_by(profile)
    sweep = Sweep(str(profile), dict(overrides or {}), where, run.params, run.unlearned_name, tuned)
    for name in sweep.names() if check else ():
        for approach in sweep.approaches:
            load_profile(profile, sweep.changes(name, approach))
    return sweep


def compared_runs(
    profile: str | Path,
    run_dir: str | Path | None = None,
    overrides: Mapping[str, Any] | None = None,
) -> tuple[Path, list[Run]]:
    """The folder, and the audited runs in it: the run itself, or the runs of a sweep.

    Raises InputError where nothing there has been audited, or was audited with other params.
    """
    run = open_run(profile, run_dir, overrides)
    runs = [run]
    if not run.stage("04_audit").is_dir():
        sweep = open_sweep(profile, run.folder, overrides)
        runs = [sweep.run(name) for name in sweep.audited()] or runs
    for each in runs:
        each.require("04_audit")
    return run.folder, runs
