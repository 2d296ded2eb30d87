"""The chain: the five notebooks, one after the other, through papermill."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any

from forget_mi import kernels
from forget_mi.errors import InputError
from forget_mi.runs.params import with_approach
from forget_mi.runs.profiles import read_yaml
from forget_mi.runs.project import ROOT, shown
from forget_mi.runs.run import Run, open_run

NOTEBOOKS = ("01_cohort", "02_train", "03_unlearn", "04_audit", "05_compare")


# Beside the chain: nothing of the chain reads them.
SIDE_NOTEBOOKS = ("03a_tune", "03b_own_method", "06_beyond", "07_your_own_model")


class NotebookError(RuntimeError):
    """A notebook stopped with an error; the message names the notebook, the cell and the error."""


def run_chain(
    profile: str | Path,
    run_dir: str | Path | None = None,
    overrides: Mapping[str, Any] | None = None,
    notebooks: Sequence[str] = NOTEBOOKS,
    progress: bool = True,
) -> Run:
    """Run the notebooks on a profile; the executed ones lie in the run folder. Notebook 03 is run for the profile's
    method and for each approach that the profile puts beside it, side by side where the params leave cores to others.

    Raises InputError for bad params before anything runs, NotebookError where a notebook stops: the chain ends there
    and its partly executed notebook is kept.
    """
    unknown = [name for name in notebooks if name not in NOTEBOOKS]
    if unknown:
        raise InputError(f"unknown notebook {unknown[0]!r}; allowed are {', '.join(NOTEBOOKS)}")
    run = open_run(profile, run_dir, overrides)
    for name in notebooks:
        started = time.perf_counter()
        jobs = []
        for changes in ({}, *beside(run, profile)) if name == "03_unlearn" else ({},):
            kept = {key: value for key, value in (overrides or {}).items()
                    if not (changes and key.startswith("unlearning"))} | changes  # fmt: skip
            parameters = {"profile": str(profile), "run_dir": str(run.folder), "overrides": kept}
            jobs.append((executed_path(open_run(profile, run_dir, kept), name), parameters))
        _run_together(name, jobs, run.params.device.at_once(), progress)
        if progress:
            print(f"{name}: {time.perf_counter() - started:.0f} s", flush=True)
    return run


def _run_together(name: str, jobs: Sequence[tuple[Path, dict[str, Any]]], at_once: int, progress: bool) -> None:
    """Run a notebook for each job, so many at once: threads will do, as each only waits for its kernel. Where one stops
    with an error, or somebody interrupts, the others are stopped too."""
    source = ROOT / "notebooks" / f"{name}.ipynb"
    if min(at_once, len(jobs)) == 1:
        for job in jobs:
            execute(source, *job, progress)
        return
    with ThreadPoolExecutor(at_once) as pool:
        waiting = [pool.submit(execute, source, *job, progress) for job in jobs]
        try:
            for done in as_completed(waiting):
                done.result()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            kernels.ForkedProvisioner.stop_all()
            raise


def beside(run: Run, profile: str | Path) -> list[dict[str, Any]]:
    """What notebook 03 overrides for each approach that a profile puts beside its method."""
    tuned = (read_yaml(profile).get("unlearning") or {}).get("tuned") if run.params.beside else None
    return [with_approach(approach, tuned) for approach in run.params.beside]


def run_tuning_notebook(
    profile: str | Path, approach: str, folder: str | Path, overrides: Mapping[str, Any] | None = None
) -> None:
    """Run notebook 03a for one approach; the executed one lies in the approach's folder. Raises NotebookError."""
    parameters = {"profile": str(profile), "tuning_dir": str(folder), "approach": approach}
    target = Path(folder) / approach / "03a_tune.ipynb"
    execute(ROOT / "notebooks" / "03a_tune.ipynb", target, parameters | {"overrides": dict(overrides or {})}, False)


def executed_path(run: Run, name: str) -> Path:
    """Where the executed notebook goes: its stage's folder."""
    folder = run.stage(name) / run.unlearned_name if name == "03_unlearn" else run.stage(name)
    return folder / f"{name}.ipynb"


def execute(source: Path, target: Path, parameters: Mapping[str, Any], progress: bool = True) -> None:
    """Execute one notebook with papermill, in a kernel that is forked where it can be.

    Raises NotebookError; what was executed until then lies at `target`.
    """
    import papermill
    from jupyter_client.provisioning import KernelProvisionerFactory
    from nbclient.exceptions import DeadKernelError
    from papermill.exceptions import PapermillExecutionError
    from traitlets.config import Config

    target.parent.mkdir(parents=True, exist_ok=True)
    # Sockets in a folder of this kernel's own: ports can be taken by a kernel that starts at the same time, and can be
    # listened to by anyone on the machine. A socket's name has at most 107 letters; where temporary folders have long
    # names, ports it is.
    with tempfile.TemporaryDirectory(prefix="forget-mi-") as folder:
        sockets = {"transport": "ipc", "connection_file": f"{folder}/kernel.json"}
        use_sockets = os.name == "posix" and len(folder) < 80
        KernelProvisionerFactory.instance().default_provisioner_name = kernels.NAME
        try:
            papermill.execute_notebook(
                str(source.absolute()),
                str(target.absolute()),
                parameters=dict(parameters),
                kernel_name="python3",
                # Not papermill's `cwd`: it changes the directory of this process, and so of other notebooks.
                resources={"metadata": {"path": str(ROOT / "notebooks")}},
                progress_bar=progress,
                config=Config({"KernelManager": sockets} if use_sockets else {}),
            )
        except PapermillExecutionError as error:
            raise NotebookError(
                f"{source.stem} stopped in cell {error.cell_index + 1}: {error.ename}: {error.evalue} "
                f"(partly executed: {shown(target)})"
            ) from None
        except DeadKernelError:
            raise NotebookError(
                f"{source.stem}: its kernel died; where the system killed it, memory ran out "
                f"(partly executed: {shown(target)})"
            ) from None
