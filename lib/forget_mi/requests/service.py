"""A service that takes deletion requests from an inbox and serves them by a policy.

    INBOX/*.csv                          forget CSVs, taken once each
    INBOX/refused/NAME, NAME.reason.txt  what can't be served, and why, in a line
    <run>/requests/service.json          the queue, and what was taken; hashed ids only
    <run>/requests/queue/0007.csv        a request that waits
    <run>/requests/status.html, .json    for people and programs, written whole

A request leaves the inbox once it is in the queue, and the queue once it is in the ledger. Whatever
moment the service is killed at, the next start goes on from these three: none is lost, none is
served twice.
"""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pandas as pd
from filelock import FileLock, Timeout

from forget_mi.data import read_forget_csv
from forget_mi.errors import InputError
from forget_mi.files import sha256_of, write_bytes, write_text
from forget_mi.requests.served_model import ServedModel
from forget_mi.requests.serving import retrain, serve, serve_together
from forget_mi.requests.status import REFUSED, status_facts, write_status
from forget_mi.runs import NotebookError, approach_overrides, display_path
from forget_mi.runs.policies import QUARTER, Policy, get_policy, load_alarm, period_ended, quick
from forget_mi.unlearning import get_method

URGENT = "urgent"  # how the name of a file begins that does not wait
MOST_PATIENTS = 10_000  # in one file

Clock = Callable[[], datetime]
Serve = Callable[[Path, Path, Mapping[str, Any]], Path]
ServeTogether = Callable[[Path, Mapping[str, Any], bool], Path]
Retrain = Callable[[Path], Path]


@dataclass(frozen=True)
class Queued:
    """An item of the queue as a policy sees it; received: in days since the service began."""

    item: dict[str, Any]
    received: float
    urgent: bool


@dataclass
class Service:
    """The service of one model. policy: one of `runs.policies.POLICIES`. overrides: of the run's
    params, for each request. clock, serve, serve_afresh, serve_together, retrain: for tests."""

    model: Path
    inbox: Path
    policy: str = "at_once"
    overrides: Mapping[str, Any] | None = None
    clock: Clock = lambda: datetime.now().astimezone()
    serve: Serve = lambda model, patients, overrides: serve(
        model, patients, overrides, progress=False
    )
    serve_afresh: Serve = lambda model, patients, overrides: serve(
        model, patients, overrides, afresh=True, progress=False
    )
    serve_together: ServeTogether = lambda model, overrides, afresh: serve_together(
        model, overrides, afresh=afresh, progress=False
    )
    retrain: Retrain = lambda model: retrain(model)

    def __post_init__(self):
        self._policy: Policy = get_policy(self.policy)
        self.served_model = ServedModel(self.model)
        profile = self.served_model.params.profile  # a folder without a trained model is refused
        if self._policy.retrain == "alarm" and load_alarm(profile) is None:
            raise InputError(
                f"policy {self.policy}: no alarm is calibrated for profile {profile}, so it would "
                f"never retrain; run make year PROFILE={profile}, or take another policy"
            )

    # ---- running ---------------------------------------------------------------------------------

    def run(self, *, once: bool = False, wait: bool = False, seconds: float = 10.0) -> None:
        """Take and serve what is due, again every so many seconds, or once.

        Raises InputError where another service has the model (unless `wait`), where nothing can be
        written below the run, and for an inbox that can't be read, once it is asked for only once;
        otherwise the status says so and the next round tries again.
        """
        try:
            with self._lock(wait):
                while True:
                    trouble = self._inbox_trouble()
                    if trouble and once:
                        raise InputError(trouble)
                    if not trouble:
                        self.take()
                    self.serve_due(trouble)
                    if once:
                        return
                    time.sleep(seconds)
        except OSError as error:
            raise InputError(
                f"MODEL {display_path(self.model)}: the service stopped ({error}); what was taken "
                "is in the queue, and goes on when it is started again"
            ) from None

    def _lock(self, wait: bool) -> FileLock:
        """The model's, held by one service; who holds it is written beside it."""
        folder = self.model / "requests"
        folder.mkdir(exist_ok=True)
        lock, holder = FileLock(folder / "service.lock"), folder / "service.holder"
        try:
            lock.acquire(timeout=-1 if wait else 0)
        except Timeout:
            said = holder.read_text().strip() if holder.is_file() else "another service"
            raise InputError(
                f"MODEL {display_path(self.model)}: is served by {said}; wait for it with --wait, "
                "or stop it"
            ) from None
        try:
            write_text(holder, f"process {os.getpid()} on {socket.gethostname()}\n")
        except OSError:
            lock.release()
            raise
        return lock

    # ---- the inbox -------------------------------------------------------------------------------

    def _inbox_trouble(self) -> str:
        """Why nothing can be taken from the inbox; empty where it can."""
        try:
            os.listdir(self.inbox)
        except OSError as error:
            return f"inbox {self.inbox}: can't be read ({error.strerror})"
        if not os.access(self.inbox, os.W_OK):
            return f"inbox {self.inbox}: can't be written to, so nothing can be taken from it"
        return ""

    def take(self) -> None:
        """Move what lies in the inbox into the queue, oldest first; what can't be served, aside."""
        state = self._state()
        files = [path for path in self.inbox.glob("*.csv") if path.is_file()]
        for path in sorted(files, key=lambda path: (path.stat().st_mtime, path.name)):
            before = path.stat()
            content = path.read_bytes()
            after = path.stat()
            changed = (before.st_size, before.st_mtime_ns) != (after.st_size, after.st_mtime_ns)
            if changed or len(content) != after.st_size:
                continue  # still being written: the next round looks again
            self._take_one(path, content, state)

    def _take_one(self, path: Path, content: bytes, state: dict[str, Any]) -> None:
        number = state["next"]
        queued = self._file(number)
        self._queue.mkdir(parents=True, exist_ok=True)
        write_bytes(queued, content)
        digest = sha256_of(queued)
        if any((item["file"], item["sha256"]) == (path.name, digest) for item in waiting_in(state)):
            queued.unlink()  # taken before the service was killed, and not yet removed
            path.unlink()
            return
        try:
            patients = self._patients(queued, path.name, state)
        except InputError as error:
            queued.unlink()
            self._refuse(path, str(error).replace(str(queued), path.name))
            return
        state["items"].append(
            {
                "number": number,
                "file": path.name,
                "sha256": digest,
                "received": self._now(state).isoformat(),
                "urgent": path.name.lower().startswith(URGENT),
                "patients": patients,
                "request": None,
            }
        )
        state["next"] = number + 1
        self._save(state)  # from here on it is taken, whether or not the file below goes
        path.unlink()

    def _patients(self, queued: Path, name: str, state: dict[str, Any]) -> list[str]:
        """Hashed ids of a request that can be served. Raises InputError otherwise."""
        served = self.served_model
        named = len(read_forget_csv(queued))
        if named > MOST_PATIENTS:
            raise InputError(f"{name}: names {named} patients, more than {MOST_PATIENTS}")
        request = served.request(served.cohort(), queued)
        hashed = sorted(map(served.hashed, request.patients))
        waiting = {p: item["file"] for item in waiting_in(state) for p in item["patients"]}
        for patient in hashed:
            if patient in waiting:
                raise InputError(
                    f"{name}: patient {patient} already waits, named by {waiting[patient]}"
                )
        return hashed

    def _refuse(self, path: Path, reason: str) -> None:
        """Move a file aside, with its reason."""
        folder = self.inbox / REFUSED
        folder.mkdir(exist_ok=True)
        write_text(folder / f"{path.name}.reason.txt", " ".join(reason.split()) + "\n")
        os.replace(path, folder / path.name)

    # ---- the queue -------------------------------------------------------------------------------

    def serve_due(self, trouble: str = "") -> None:
        """Serve what is due, in order; those that wait together are served together. What fails
        stays in the queue, and the status names it."""
        state = self._state()
        self._now(state)
        if self._policy.afresh and not trouble and (gone := self.served_model.destroyed()):
            trouble = f"{gone}, so each request is served by itself until the next training"
        self._mark_served(state)
        ledger = self.served_model.ledger
        if state["retraining"] and ledger and not ledger[-1]["patients"]:
            self._note_retraining(state)  # the service was killed before it could
        self._show(state, trouble)
        while True:
            due = self.due(state)
            if due:
                self._serve(due, self._overrides(), state)
                self._mark_served(state)
                self._show(state, trouble)
            self._retrain_if_due(state, trouble)
            if not due:
                break
        self._serve_together_if_due(state, trouble)

    def _overrides(self) -> dict[str, Any]:
        """Of the run's params, for a request served by itself."""
        overrides = dict(self.overrides or {})
        if self._policy.retrain == "instead":
            return overrides | approach_overrides("retrain", None)
        if self._policy.together:
            few = quick(get_method(self.served_model.params.method).Config)
            return {f"unlearning.{name}": value for name, value in few.items()} | overrides
        return overrides

    def _serve(self, due: list[dict[str, Any]], overrides: Mapping[str, Any], state: dict) -> None:
        """Serve these together. Raises InputError where that fails."""
        patients = self._joined(due)
        policy = self._policy
        afresh = policy.afresh and not policy.together and not self.served_model.destroyed()
        try:
            (self.serve_afresh if afresh else self.serve)(self.model, patients, overrides)
        except (InputError, NotebookError) as error:
            self._show(state, f"request not served: {error}")
            raise InputError(str(error)) from error
        finally:
            patients.unlink(missing_ok=True)

    def _retrain_if_due(self, state: dict[str, Any], trouble: str) -> None:
        """Put a model into use that was trained without everyone served so far, where the policy
        says so and anybody was served since the last time."""
        ledger = self.served_model.ledger
        if not ledger or not ledger[-1]["patients"]:
            return
        last, now = (self._days(state, moment) for moment in (state["retrained"], state["latest"]))
        quarter = self._policy.retrain == "quarterly" and period_ended(QUARTER, last, now)
        worn = self._policy.retrain == "alarm" and (ledger[-1].get("wear") or {}).get("retrain")
        if quarter or worn:
            state["retraining"] = state["latest"]
            self._save(state)
            self.retrain(self.model)
            self._note_retraining(state)
            self._show(state, trouble)

    def _serve_together_if_due(self, state: dict[str, Any], trouble: str) -> None:
        """Serve those who were served one by one once more, together, where a period ended since
        the first of them. Where it can't be done any more, the status says why."""
        if not self._policy.together:
            return
        model = self.served_model
        alone = {entry["number"] for entry in model.ledger[model.alone_since() :]}
        received = [item["received"] for item in state["items"] if item["request"] in alone]
        if not received:
            return
        first, now = (self._days(state, moment) for moment in (min(received), state["latest"]))
        if not period_ended(self._policy.together, first, now):
            return
        try:
            self.serve_together(self.model, dict(self.overrides or {}), self._policy.afresh)
        except NotebookError as error:
            self._show(state, f"requests not served together: {error}")
            raise InputError(str(error)) from error
        except InputError as error:  # the records were destroyed: what was done alone stands
            trouble = f"requests not served together: {error}"
        self._show(state, trouble)

    def _note_retraining(self, state: dict[str, Any]) -> None:
        state |= {"retrained": state["retraining"], "retraining": None}
        self._save(state)

    def due(self, state: dict[str, Any]) -> list[dict[str, Any]]:
        """Which waiting requests are to be served now, in one go (`Policy.due`)."""
        now = self._days(state, self._now(state).isoformat())
        return [each.item for each in self._policy.due(self._queued(state), now)]

    def next_due(self, state: dict[str, Any]) -> datetime | None:
        """When the queue is served next; None where nothing waits."""
        queued = self._queued(state)
        if not queued:
            return None
        days = min(self._policy.due_day(each) for each in queued)
        return datetime.fromisoformat(state["began"]) + timedelta(days=days)

    def _queued(self, state: dict[str, Any]) -> list[Queued]:
        return [
            Queued(item, self._days(state, item["received"]), item["urgent"])
            for item in waiting_in(state)
        ]

    @staticmethod
    def _days(state: dict[str, Any], moment: str) -> float:
        """Days from the service's beginning to a moment."""
        since = datetime.fromisoformat(moment) - datetime.fromisoformat(state["began"])
        return since / timedelta(days=1)

    def _joined(self, due: list[dict[str, Any]]) -> Path:
        """The requests as one forget CSV, below the run."""
        asked = [read_forget_csv(self._file(item["number"])) for item in due]
        named = pd.DataFrame({"subject_id": [patient for one in asked for patient in one]})
        path = self._queue / "now.csv"
        write_text(path, named.to_csv(index=False))
        return path

    def _mark_served(self, state: dict[str, Any]) -> None:
        """What the ledger has leaves the queue."""
        served = self.served_model.served()
        for item in state["items"]:
            if item["request"] is None and all(p in served for p in item["patients"]):
                item["request"] = served[item["patients"][0]]["number"]
                self._save(state)
            if item["request"] is not None:
                self._file(item["number"]).unlink(missing_ok=True)

    def _show(self, state: dict[str, Any], trouble: str) -> None:
        """Write the status page."""
        facts = status_facts(
            self.served_model,
            policy=self.policy,
            inbox=self.inbox,
            waiting=waiting_in(state),
            next_due=self.next_due(state),
            trouble=trouble,
        )
        write_status(self.served_model, facts)

    # ---- what is kept ----------------------------------------------------------------------------

    @property
    def _queue(self) -> Path:
        return self.model / "requests" / "queue"

    def _file(self, number: int) -> Path:
        return self._queue / f"{number:04d}.csv"

    def _state(self) -> dict[str, Any]:
        path = self.model / "requests" / "service.json"
        never = dict.fromkeys(("began", "retrained", "retraining"))
        if not path.is_file():
            return {"next": 1, "latest": None, "items": []} | never
        try:
            return never | json.loads(path.read_text())
        except ValueError as error:
            raise InputError(f"{display_path(path)}: is damaged ({error}); restore it") from None

    def _save(self, state: dict[str, Any]) -> None:
        write_text(self.model / "requests" / "service.json", json.dumps(state, indent=2) + "\n")

    def _now(self, state: dict[str, Any]) -> datetime:
        """The time, which never goes back: where the clock does, the latest time that was seen."""
        now = self.clock()
        if state["latest"] is not None:
            now = max(now, datetime.fromisoformat(state["latest"]))
        state["latest"] = now.isoformat()
        if state["began"] is None:
            # Weeks, months and quarters are counted from the first look, whatever it found.
            state["began"] = state["retrained"] = state["latest"]
            self._save(state)
        return now


def waiting_in(state: Mapping[str, Any]) -> list[dict[str, Any]]:
    """What was taken and not yet served, oldest first."""
    return [item for item in state["items"] if item["request"] is None]
