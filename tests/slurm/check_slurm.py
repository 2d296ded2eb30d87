"""`make test-slurm`: the same small sweep here and on a real Slurm of one node must give the same
table."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pandas as pd

from forget_mi.runs.profiles import load_profile

ROOT = Path(__file__).resolve().parents[2]
SLURM = Path(tempfile.gettempdir()) / "forget-mi-slurm"
GRID = {"approaches": ["forget_mi-equal", "neg_grad"], "fractions": [0.1, 0.2], "seeds": [0]}
NOT_TIMES = ["seconds", "share_of_retraining", "share_of_references"]


def sweep(folder: Path, *snakemake: str, **environment: str) -> pd.DataFrame:
    """The table of the small sweep, without its times."""
    command = [sys.executable, "-m", "forget_mi", "sweep", "tiny", "--folder", str(folder)]
    command += ["--set", f"sweep={json.dumps(GRID)}"]
    if snakemake:
        command += ["--", *snakemake]
    subprocess.run(command, cwd=ROOT, env={**os.environ, **environment}, check=True)
    return pd.read_csv(folder / "comparison.csv").drop(columns=NOT_TIMES)


def main() -> int:
    """Exit status 0 where both tables are equal to the last digit and every job went through
    Slurm."""
    script = str(Path(__file__).with_name("slurm.sh"))
    # Below the project: on a cluster the run folder lies on a file system that all nodes share.
    with tempfile.TemporaryDirectory(dir=ROOT / "runs") as folder:
        here = sweep(Path(folder) / "local")
        try:
            subprocess.run([script, "start", str(SLURM)], check=True)
            configuration = {"SLURM_CONF": str(SLURM / "slurm.conf")}
            # squeue: there is no accounting, which the plugin would ask by default.
            options = (
                "--workflow-profile",
                "workflow/profiles/slurm",
                "--slurm-status-command",
                "squeue",
            )
            there = sweep(Path(folder) / "slurm", *options, **configuration)
            jobs = subprocess.run(
                ["scontrol", "show", "job", "--oneliner"],
                env={**os.environ, **configuration},
                check=True,
                capture_output=True,
                text=True,
            ).stdout.splitlines()
        finally:
            subprocess.run([script, "stop", str(SLURM)], check=True)
    pd.testing.assert_frame_equal(here, there)
    completed = [job for job in jobs if "JobState=COMPLETED" in job]
    with_gpu = [
        job
        for job in completed
        if "gres/gpu" in job or "TresPerJob=gpu" in job or "gres:gpu" in job
    ]
    shadows = load_profile("tiny").shadows.count
    cells = len(GRID["fractions"]) * len(GRID["seeds"])
    expected = cells * (3 + len(GRID["approaches"])) + 1 + shadows
    assert len(completed) == expected, f"{len(completed)} of {expected} jobs completed in Slurm"
    assert len(with_gpu) == cells * (1 + len(GRID["approaches"])) + shadows, (
        f"{len(with_gpu)} jobs asked for a GPU"
    )
    print(
        f"{len(completed)} Slurm jobs, {len(with_gpu)} with a GPU asked for: the table equals the "
        "local one"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
