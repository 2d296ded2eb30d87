"""`make test-service`: a year of requests to a real service that is killed (kill -9) 100 times at
random moments, and to one whose disk is full twenty times, must end as a year that nobody
disturbed.

On each day with something to do the service is started. Needs root, for a disk of its own (tmpfs).
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cached_property
from pathlib import Path

import pandas as pd
from traces import leaks, traces_of

from forget_mi.errors import InputError
from forget_mi.models import load_checkpoint
from forget_mi.requests import ServedModel, Service, delete_records, ledger_problems
from forget_mi.runs import run_chain
from forget_mi.runs.policies import QUARTER
from forget_mi.studies.letters import Letter, LetterConfig, draw_letters

POLICY = "at_once-quarterly"
START = datetime(2026, 1, 5, 9, tzinfo=UTC)
TRAINING = {"cohort.patients": 120, "shadows.count": 0}
SERVING = {"audit.draws": 50}
LETTERS = LetterConfig(a_week=0.25, ward=0)
TIMES = ("served", "previous", "hash")  # of a ledger's line; the chain is checked by itself
STATUS_TIMES = ("written", "next_due")
FREE = 3 * 2**20  # bytes at most that a full disk still has; a request needs more


@dataclass(frozen=True)
class Trial:
    """A copy of the trained model, its inbox, and the letters that it gets."""

    folder: Path
    letters: list[Letter]

    @classmethod
    def begin(cls, trained: Path, letters: list[Letter], folder: Path) -> Trial:
        shutil.copytree(trained, folder / "model")
        (folder / "inbox").mkdir()
        return cls(folder, letters)

    @property
    def model(self) -> Path:
        return self.folder / "model"

    @cached_property
    def days(self) -> list[float]:
        """On which there is something to do."""
        quarters = [QUARTER * number for number in range(1, 5)]
        return sorted({0.0, *(letter.received for letter in self.letters), *quarters})

    def drop(self, day: float) -> None:
        """The day's letters, into the inbox."""
        for number, letter in enumerate(self.letters):
            if letter.received == day:
                named = pd.DataFrame({"subject_id": letter.patients})
                named.to_csv(self.folder / "inbox" / f"{number:03d}.csv", index=False)

    def serve(self, day: float) -> None:
        """A start of the service on that day, until nothing is left to do."""
        clock = lambda: START + timedelta(days=day)  # noqa: E731
        Service(self.model, self.folder / "inbox", POLICY, SERVING, clock).run(once=True)

    def year(self, disturb: Callable[[Trial, float], None] = lambda *_: None) -> Trial:
        """All days; before each is finished, `disturb` has its way."""
        for day in self.days:
            self.drop(day)
            disturb(self, day)
            self.serve(day)
        return self

    def result(self) -> dict[str, object]:
        """What must not depend on what was done to the service."""
        served = ServedModel(self.model)
        status = json.loads((self.model / "requests" / "status.json").read_text())
        lines = [{k: v for k, v in line.items() if k not in TIMES} for line in served.ledger]
        left = [str(p) for p in (self.folder / "inbox").rglob("*") if p.is_file()]
        left += [str(p) for p in (self.model / "requests" / "queue").glob("*.csv")]
        return {
            "ledger": lines,
            "ledger problems": ledger_problems(self.model),
            "folders": sorted(p.name for p in (self.model / "requests").iterdir() if p.is_dir()),
            "status": without_times(status),
            "left in inbox and queue": left,
        }

    def traces_left(self) -> list[str]:
        """After --delete-records, what is still there of those who were served."""
        served = ServedModel(self.model)
        cohort = served.cohort()
        gone = {patient for line in served.ledger for patient in line["patients"]}
        rows = cohort.table.patient_id.map(served.hashed).isin(gone).to_numpy()
        tokenizer = load_checkpoint(served.checkpoint()).tokenizer
        traces = traces_of(cohort, rows, tokenizer)
        delete_records(self.model)
        return leaks(self.model, traces)


def without_times(value: object) -> object:
    """A status without its clock's readings."""
    if isinstance(value, dict):
        return {k: without_times(v) for k, v in value.items() if k not in (*TIMES, *STATUS_TIMES)}
    return [without_times(each) for each in value] if isinstance(value, list) else value


class Killer:
    """Kills the service so many times a day, at moments drawn from a seed, each within the time
    that the undisturbed day took."""

    def __init__(self, a_day: list[int], seconds: dict[float, float]):
        self.left, self.seconds, self.done = list(a_day), seconds, 0
        self.rng = random.Random(0)

    def __call__(self, trial: Trial, day: float) -> None:
        for _ in range(self.left.pop(0)):
            child = subprocess.Popen([sys.executable, __file__, "--serve", trial.folder, str(day)])
            time.sleep(self.rng.uniform(0, self.seconds[day]) + START_SECONDS * self.rng.random())
            child.send_signal(signal.SIGKILL)
            self.done += child.wait() == -signal.SIGKILL


START_SECONDS = 6.0  # of a Python with torch


class Filler:
    """Fills the trial's disk so many times a day, but for a few bytes, and frees it again."""

    def __init__(self, a_day: list[int]):
        self.left, self.done, self.rng = list(a_day), 0, random.Random(1)

    def __call__(self, trial: Trial, day: float) -> None:
        for _ in range(self.left.pop(0)):
            filler = trial.folder / "filler"
            room = shutil.disk_usage(trial.folder).free - self.rng.randrange(4096, FREE)
            with open(filler, "wb") as file:
                os.posix_fallocate(file.fileno(), 0, max(room, 1))
            try:
                trial.serve(day)
            except InputError as error:
                print(f"  day {day:.0f}: {str(error).splitlines()[0][:150]}")
                self.done += 1
            finally:
                filler.unlink()


def shared_out(count: int, days: int) -> list[int]:
    """So many disturbances over the days, as evenly as can be."""
    return [count * (k + 1) // days - count * k // days for k in range(days)]


def timed_year(trial: Trial) -> dict[float, float]:
    """The undisturbed year; the seconds that each day took."""
    seconds = {}
    for day in trial.days:
        began = time.perf_counter()
        trial.drop(day)
        trial.serve(day)
        seconds[day] = time.perf_counter() - began
    return seconds


def main() -> int:
    """Exit status 0 where all three years end alike and no trace of those served is left."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--full", type=int, default=20)
    parser.add_argument("--serve", nargs=2, metavar=("TRIAL", "DAY"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        Trial(Path(options.serve[0]), []).serve(float(options.serve[1]))
        return 0
    with tempfile.TemporaryDirectory() as name:
        return compare(Path(name), options.kills, options.full)


def compare(folder: Path, kills: int, full: int) -> int:
    trained, disk = folder / "trained", folder / "disk"
    run_chain("tiny", trained, TRAINING, notebooks=["01_cohort", "02_train"], progress=False)
    cohort = ServedModel(trained).cohort()
    patients = sorted(cohort.table.patient_id[cohort.table.split == "train"].unique())
    letters = draw_letters(patients, LETTERS, seed=0)
    calm = Trial.begin(trained, letters, folder / "calm")
    seconds = timed_year(calm)
    print(f"{len(letters)} requests, {len(calm.days)} days, {sum(seconds.values()):.0f} s calm")

    killer = Killer(shared_out(kills, len(calm.days)), seconds)
    killed = Trial.begin(trained, letters, folder / "killed").year(killer)
    print(f"killed {killer.done} times of {kills}")

    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1g", "forget-mi-full", str(disk)]
    subprocess.run(mount, check=True)
    try:
        filler = Filler(shared_out(full, len(calm.days)))
        filled = Trial.begin(trained, letters, disk / "trial").year(filler)
        print(f"stopped by a full disk {filler.done} times of {full}")
        problems = differences(calm, {"killed": killed, "full disk": filled})
    finally:
        subprocess.run(["umount", str(disk)], check=True)
    for problem in problems:
        print(problem)
    print("FAILED" if problems else "all three years ended alike; no trace is left")
    return int(bool(problems))


def differences(calm: Trial, others: dict[str, Trial]) -> list[str]:
    """Where a disturbed year ended otherwise, a line each."""
    expected, problems = calm.result(), []
    problems += [f"calm: {name}: {found}" for name, found in flaws(expected)]
    for name, trial in others.items():
        result = trial.result()
        problems += [
            f"{name}: {part} differs:\n  {expected[part]}\n  {result[part]}"
            for part in expected
            if result[part] != expected[part]
        ]
        problems += [f"{name}: trace left: {trace}" for trace in trial.traces_left()]
    return problems


def flaws(result: dict[str, object]) -> list[tuple[str, object]]:
    """What must be empty whatever was done."""
    return [(n, result[n]) for n in ("ledger problems", "left in inbox and queue") if result[n]]


if __name__ == "__main__":
    sys.exit(main())
