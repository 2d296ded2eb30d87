"""Batches: the Snakemake workflow in workflow/, called with a checked grid."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from forget_mi.errors import InputError, import_extra
from forget_mi.files import write_text
from forget_mi.models import read_manifest
from forget_mi.runs import (
    ROOT,
    SHADOWS,
    NotebookError,
    display_path,
    draw_salt,
    open_run,
    run_chain,
    shadow_set,
    show_progress,
    write_table,
)
from forget_mi.studies.beyond import make_part
from forget_mi.studies.documents import with_earlier_rows
from forget_mi.studies.sweep import Sweep, open_sweep
from forget_mi.studies.tuning import tuning_folder
from forget_mi.training import make_accelerator

SNAKEFILE = ROOT / "workflow" / "Snakefile"


def run_sweep(
    profile: str | Path,
    folder: str | Path | None,
    overrides: Mapping[str, Any],
    options: Sequence[str] = (),
) -> int:
    """Run or finish the sweep of a profile; 0 where every cell of the grid is in its table.

    options: for snakemake. A run that fails does not stop the others: what could be finished is
    compared, what could not is named. Raises InputError for an impossible grid before anything
    runs.
    """
    sweep = open_sweep(profile, folder, overrides)
    if only_shows(options):
        return _snakemake(sweep, options)
    sweep.clear_failures()
    draw_salt(sweep.folder)
    code = _snakemake(sweep, options)
    if code and sweep.audited():
        print("forget_mi: some runs failed; comparing those that were finished", file=sys.stderr)
        _snakemake(sweep, options, only="audited")
    for cell, error in sweep.failed().items():
        print(f"forget_mi: failed: {cell}: {error}", file=sys.stderr)
    if (sweep.folder / "comparison.csv").is_file():
        print(f"The comparison lies in {display_path(sweep.folder / 'comparison.csv')}.")
    return code or int(bool(sweep.failed()))


def run_job(
    profile: str | Path,
    folder: str | Path,
    overrides: Mapping[str, Any],
    notebook: str,
    name: str | None = None,
    approach: str | None = None,
) -> None:
    """One job of a sweep: a notebook of one of its runs, or 05_compare over all of them. A cell of
    the grid (03_unlearn) that stops with an error leaves an outcome that says so, and raises
    nothing: the rest goes on."""
    sweep = open_sweep(profile, folder, overrides, check=False)
    if name is None:
        run_chain(profile, sweep.folder, overrides, [notebook], progress=False)
        return
    changes = sweep.changes(name, approach)
    try:
        run_chain(profile, sweep.folder / name, changes, [notebook], progress=False)
    except NotebookError as error:
        if notebook != "03_unlearn":
            raise
        print(f"forget_mi: {error}", file=sys.stderr)
        run = sweep.run(name, approach)
        run.fail(f"{notebook}/{run.unlearned_name}", str(error))


def run_tuning(
    profile: str | Path,
    folder: str | Path | None,
    overrides: Mapping[str, Any],
    options: Sequence[str] = (),
) -> int:
    """Tune every approach of a profile's sweep, then write params/tuned/<profile>.yaml and
    figures/tuning.csv (with another folder, tuned.yaml and tuning.csv there); 0 where all were
    tuned."""
    sweep = open_sweep(profile, None, overrides)
    where = tuning_folder(profile, folder)
    code = _snakemake(sweep, ["tuned", *options], tuning=where)
    if code or only_shows(options):
        return code
    approaches = sweep.approaches
    settings = {
        name: yaml.safe_load((where / name / "settings.yaml").read_text()) for name in approaches
    }
    trials = pd.concat(
        [pd.read_csv(where / name / "trials.csv").assign(approach=name) for name in approaches]
    )
    own = folder is None
    tuned = (
        ROOT / "params" / "tuned" / f"{sweep.params.profile}.yaml" if own else where / "tuned.yaml"
    )
    if own:  # what was tuned before stays, unless it was tuned again
        settings = {**(yaml.safe_load(tuned.read_text()) if tuned.is_file() else {}), **settings}
        path = ROOT / "figures" / "tuning.csv"
        trials = trials.assign(profile=sweep.params.profile)
        trials = with_earlier_rows(trials, path, ["profile", "approach"])
    comment = (
        f"# Written by make tune PROFILE={sweep.params.profile}: each approach's best "
        "trial, by 03a's rule.\n"
    )
    write_text(tuned, comment + yaml.safe_dump(settings, sort_keys=False))
    first = [*(["profile"] if own else []), "approach", "trial", "chosen", "score", "ended"]
    columns = first + [name for name in trials if name not in first]
    write_table(ROOT / "figures" / "tuning.csv" if own else where / "tuning.csv", trials[columns])
    print(f"The chosen settings lie in {display_path(tuned)}.")
    return 0


def run_shadows(
    profile: str | Path, overrides: Mapping[str, Any], options: Sequence[str] = ()
) -> int:
    """Train the shadow models of a profile that are missing; 0 where all are there. options: for
    snakemake.

    Raises InputError where the profile asks for none.
    """
    run = open_run(profile, overrides=overrides)
    if run.params.shadows.count == 0:
        raise InputError(
            f"profile {profile}: shadows.count is 0; ask for some, as in --set shadows.count=16"
        )
    draw_salt(run.folder)  # the run's own ids of patients
    sweep = open_sweep(profile, run.folder, overrides, check=False)
    code = _snakemake(sweep, ["shadows", *options])
    if code == 0 and not only_shows(options):
        print(f"{run.params.shadows.count} shadow models lie below {display_path(SHADOWS)}.")
    return code


def run_shadow(
    profile: str | Path,
    run_dir: str | Path,
    number: int,
    outcome: Path,
    overrides: Mapping[str, Any],
) -> None:
    """Train one shadow model where it is not whole already; `outcome` then says which it is."""
    run = open_run(profile, run_dir, overrides)
    found = shadow_set(run, run.source())
    found.train(number, make_accelerator(run.params.device), progress=show_progress())
    where = {
        "model": display_path(found.path(number)),
        "sha256": read_manifest(found.path(number))["weights_sha256"],
    }
    write_text(outcome, json.dumps(where, indent=2) + "\n")


def run_beyond(
    profile: str | Path, overrides: Mapping[str, Any], options: Sequence[str] = ()
) -> int:
    """Make the studies past the paper (beyond.PARTS) that are missing; 0 where all are there. Their
    runs lie in the folder of the profile's sweep, with seeds of their own."""
    sweep = open_beyond_sweep(profile, overrides)
    draw_salt(sweep.folder)
    return _snakemake(sweep, ["beyond", *options])


def open_beyond_sweep(profile: str | Path, overrides: Mapping[str, Any]) -> Sweep:
    """The profile's sweep with the seeds of the studies past the paper."""
    seeds = open_sweep(profile, None, overrides, check=False).grid.beyond
    return open_sweep(profile, None, {**overrides, "sweep.seeds": list(seeds)})


def run_beyond_part(
    profile: str | Path,
    folder: str | Path,
    part: str,
    seed: int,
    path: Path,
    overrides: Mapping[str, Any],
) -> None:
    """Write one part's table."""
    sweep = open_sweep(profile, folder, overrides, check=False)
    write_table(path, make_part(sweep, part, seed, path.parent))


def only_shows(options: Sequence[str]) -> bool:
    """Whether snakemake is asked to show what it would do."""
    return any(option.startswith(("--dry-run", "-n", "--dag", "--rulegraph")) for option in options)


def _snakemake(sweep: Sweep, options: Sequence[str], **config: object) -> int:
    """snakemake's exit status. Its own files lie beside the runs. It goes on after a failure, and
    makes again what a killed job left behind. config: what the Snakefile is given beside the
    sweep."""
    import_extra("snakemake", "studies")
    sweep.folder.mkdir(parents=True, exist_ok=True)
    # In hex: snakemake reads a value as YAML whose scalars are all texts, and again in each job it
    # starts.
    overrides = json.dumps(dict(sweep.overrides)).encode().hex()
    config |= {"profile": sweep.profile, "folder": sweep.folder, "overrides": overrides}
    where = ("--cores", "-c", "--jobs", "-j", "--executor", "--workflow-profile")
    command = [
        *(
            sys.executable,
            "-m",
            "snakemake",
            "--snakefile",
            str(SNAKEFILE),
            "--directory",
            str(sweep.folder),
        ),
        # What takes any number of values comes first: it would swallow a target.
        *("--quiet", "host", "reason", "--keep-going", "--rerun-incomplete", "--nolock"),
        *([] if any(option.startswith(where) for option in options) else ["--cores", "all"]),
        *options,
        *("--config", *(f"{name}={value}" for name, value in config.items())),
    ]
    environment = {**os.environ, "FORGET_MI_PROGRESS": "0"}
    return subprocess.run(command, cwd=ROOT, env=environment, check=False).returncode
