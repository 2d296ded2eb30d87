"""The chain: the five notebooks, one after the other, through papermill."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from forget_mi.errors import InputError, import_extra
from forget_mi.runs.parallel import run_parallel
from forget_mi.runs.params import approach_overrides
from forget_mi.runs.profiles import tuned_by
from forget_mi.runs.project import ROOT, display_path
from forget_mi.runs.run import Run, open_run

NOTEBOOKS = ("01_cohort", "02_train", "03_unlearn", "04_audit", "05_compare")


# Beside the chain: nothing of the chain reads them.
SIDE_NOTEBOOKS = (
    "03a_tune",
    "03b_own_method",
    "06_beyond",
    "07_your_own_model",
    "08_year_of_requests",
)


# What torch and its like leave in memory stays to the end. Without looking through it again and
# again for garbage, a notebook starts and ends a second earlier.
FEWER_COLLECTIONS = (
    "import atexit, gc; gc.set_threshold(50_000, 20, 20); atexit.register(gc.freeze)"
)


class NotebookError(RuntimeError):
    """A notebook stopped with an error; the message names the notebook, the cell and the error."""


def run_chain(
    profile: str | Path,
    run_dir: str | Path | None = None,
    overrides: Mapping[str, Any] | None = None,
    notebooks: Sequence[str] = NOTEBOOKS,
    progress: bool = True,
) -> Run:
    """Run the notebooks on a profile; the executed ones lie in the run folder. Notebook 03 is run
    for the profile's method and for each approach that the profile puts beside it, side by side
    where the params leave cores to others.

    Raises InputError for bad params before anything runs, NotebookError where a notebook stops: the
    chain ends there and its partly executed notebook is kept.
    """
    unknown = [name for name in notebooks if name not in NOTEBOOKS]
    if unknown:
        raise InputError(f"unknown notebook {unknown[0]!r}; allowed are {', '.join(NOTEBOOKS)}")
    run = open_run(profile, run_dir, overrides)
    run.check_writable()
    for name in notebooks:
        started = time.perf_counter()
        jobs = []
        for changes in ({}, *compared_overrides(run, profile)) if name == "03_unlearn" else ({},):
            own = {
                key: value
                for key, value in (overrides or {}).items()
                if not key.startswith("unlearning")
            }
            changed = {**own, **changes} if changes else dict(overrides or {})
            parameters = {"profile": str(profile), "run_dir": str(run.folder), "overrides": changed}
            jobs.append(
                (executed_notebook_path(open_run(profile, run_dir, changed), name), parameters)
            )
        execute_job = partial(_execute_job, ROOT / "notebooks" / f"{name}.ipynb", progress)
        run_parallel(execute_job, jobs, run.params.device, progress=False)
        if progress:
            print(f"{name}: {time.perf_counter() - started:.0f} s", flush=True)
    return run


def _execute_job(source: Path, progress: bool, job: tuple[Path, dict[str, Any]]) -> None:
    execute(source, *job, progress)


def compared_overrides(run: Run, profile: str | Path) -> list[dict[str, Any]]:
    """What notebook 03 overrides for each approach that a profile puts beside its method."""
    tuned = tuned_by(profile) if run.params.beside else None
    return [approach_overrides(approach, tuned) for approach in run.params.beside]


def run_tuning_notebook(
    profile: str | Path,
    approach: str,
    folder: str | Path,
    overrides: Mapping[str, Any] | None = None,
) -> None:
    """Run notebook 03a for one approach; the executed one lies in the approach's folder. Raises
    NotebookError."""
    parameters = {"profile": str(profile), "tuning_dir": str(folder), "approach": approach}
    target = Path(folder) / approach / "03a_tune.ipynb"
    execute(
        ROOT / "notebooks" / "03a_tune.ipynb",
        target,
        parameters | {"overrides": dict(overrides or {})},
        False,
    )


def executed_notebook_path(run: Run, name: str) -> Path:
    """Where the executed notebook goes: its stage's folder."""
    folder = run.stage(name) / run.unlearned_name if name == "03_unlearn" else run.stage(name)
    return folder / f"{name}.ipynb"


def execute(
    source: Path, target: Path, parameters: Mapping[str, Any], progress: bool = True
) -> None:
    """Execute one notebook with papermill.

    Raises NotebookError; what was executed until then lies at `target`.
    """
    papermill = import_extra("papermill", "notebooks")
    from nbclient.exceptions import DeadKernelError
    from papermill.exceptions import PapermillExecutionError
    from traitlets.config import Config

    target.parent.mkdir(parents=True, exist_ok=True)
    # Sockets in a folder of this kernel's own: ports can be taken by a kernel that starts at the
    # same time, and can be listened to by anyone on the machine. A socket's name has at most 107
    # letters; where temporary folders have long names, ports it is.
    with tempfile.TemporaryDirectory(prefix="forget-mi-") as folder:
        lines = f"--IPKernelApp.exec_lines={FEWER_COLLECTIONS}"
        settings = {"NotebookClient": {"extra_arguments": [lines]}}
        if os.name == "posix" and len(folder) < 80:
            settings["KernelManager"] = {
                "transport": "ipc",
                "connection_file": f"{folder}/kernel.json",
            }
        try:
            papermill.execute_notebook(
                str(source.absolute()),
                str(target.absolute()),
                parameters=dict(parameters),
                kernel_name="python3",
                # Not papermill's `cwd`: it changes the directory of this process, and so of other
                # notebooks.
                resources={"metadata": {"path": str(ROOT / "notebooks")}},
                progress_bar=progress,
                # Where a stream is cut depends on time; joined, the same run gives the same file.
                coalesce_streams=True,
                config=Config(settings),
            )
        except PapermillExecutionError as error:
            raise NotebookError(
                f"{source.stem} stopped in cell {error.cell_index + 1}: {error.ename}: "
                f"{error.evalue} (partly executed: {display_path(target)})"
            ) from None
        except DeadKernelError:
            raise NotebookError(
                f"{source.stem}: its kernel died; where the system killed it, memory ran out "
                f"(partly executed: {display_path(target)})"
            ) from None
