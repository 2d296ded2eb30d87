"""When deletion requests are served, and when the model is retrained: the policies of a service,
and what a simulated year compares."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import yaml

from forget_mi.errors import InputError
from forget_mi.files import write_text
from forget_mi.runs.project import ROOT, display_path

WEEK, MONTH, QUARTER = 7.0, 91 / 3, 91.0  # days; three months are a quarter, four a year of 364


class Waiting(Protocol):
    """A request that waits. received: when, in days. urgent: whether it may not wait."""

    received: float
    urgent: bool


@dataclass(frozen=True)
class Policy:
    """every: days between the days on which the queue is served (the end of each week, month or
    quarter); 0 serves each request at once. urgent: whether urgent requests are served at once all
    the same. retrain: None, or what makes the model be trained again without everyone served so
    far: 'instead' (the queue is served by it, and nothing is unlearned), 'quarterly', or 'alarm'
    (where the estimated wear is over the threshold). together: days after which everyone served
    since is served once more, in one request, from the model as it was before them; 0 for never.
    One request wears a model less than several do. Until then each is served by QUICK settings,
    and the records must be there. afresh: with those whom a request names (or, with `together`,
    at the end of its period) everyone since the last training is served once more, in one request,
    from the model as it was trained, so that no wear adds up. Their records and that model must be
    there until the next training."""

    every: float = 0.0
    urgent: bool = True
    retrain: str | None = None
    together: float = 0.0
    afresh: bool = False

    def due(self, waiting: Sequence[Waiting], now: float) -> list[Waiting]:
        """Which of the waiting requests (oldest first) are served now, in one go: an urgent one by
        itself; else the oldest by itself, or all once the day has come."""
        urgent = [each for each in waiting if each.urgent] if self.urgent else []
        if urgent or not waiting:
            return urgent[:1]
        if self.every == 0:
            return list(waiting[:1])
        return list(waiting) if now >= self.due_day(waiting[0]) else []

    def due_day(self, request: Waiting) -> float:
        """The day on which a request is served at the latest."""
        if self.every == 0 or (self.urgent and request.urgent):
            return request.received
        # Rounded, since three months are a quarter.
        return round((math.floor(request.received / self.every) + 1) * self.every, 6)


# Of a request that will be served once more: fewer passes and retained records, enough that its
# patients are not found meanwhile.
QUICK = {"epochs": 3, "retain_batch": 2, "least_steps": 2}


def quick(settings: Any) -> dict[str, int]:
    """QUICK, where the method of these settings takes steps of that kind; else nothing."""
    return dict(QUICK) if all(hasattr(settings, name) for name in QUICK) else {}


def period_ended(days: float, before: float, now: float) -> bool:
    """Whether one of the periods of so many days ended after `before` and not after `now`, in days
    since the service began."""
    # Rounded, since three months are a quarter.
    number = [math.floor(round(day / days, 6)) for day in (before, now)]
    return number[1] > number[0]


# By the name that the service's --policy takes.
POLICIES = {
    "at_once": Policy(),
    "weekly": Policy(WEEK),
    "monthly": Policy(MONTH),
    "at_once-quarterly": Policy(retrain="quarterly"),
    "monthly-quarterly": Policy(MONTH, retrain="quarterly"),
    "at_once-together": Policy(together=MONTH),
    "at_once-together-quarterly": Policy(together=MONTH, retrain="quarterly"),
    "at_once-afresh": Policy(afresh=True),
    "monthly-afresh": Policy(MONTH, afresh=True),
    "at_once-together-afresh": Policy(together=MONTH, afresh=True),
    "at_once-alarm": Policy(retrain="alarm"),
    "monthly-alarm": Policy(MONTH, retrain="alarm"),
    "retrain_at_once": Policy(retrain="instead"),
    "retrain_monthly": Policy(MONTH, urgent=False, retrain="instead"),
    "retrain_quarterly": Policy(QUARTER, urgent=False, retrain="instead"),
}


@dataclass(frozen=True)
class Alarm:
    """When a served model is worn out: the estimated gap (`evaluation.wear.WearModel`) above which
    it says 'retrain', and the coefficients of that estimate."""

    threshold: float
    coefficients: Mapping[str, float]

    def save(self, profile: str | Path) -> None:
        """Into params/wear/<profile>.yaml."""
        values = {"threshold": self.threshold, "coefficients": dict(self.coefficients)}
        write_text(_alarm_file(profile), yaml.safe_dump(values, sort_keys=False))


def load_alarm(profile: str | Path) -> Alarm | None:
    """A profile's alarm, or None where none was calibrated (`make year`). Raises InputError for a
    damaged file."""
    path = _alarm_file(profile)
    if not path.is_file():
        return None
    try:
        return Alarm(**yaml.safe_load(path.read_text()))
    except (TypeError, yaml.YAMLError) as error:
        raise InputError(f"{display_path(path)}: is no alarm ({error}); run make year") from None


def _alarm_file(profile: str | Path) -> Path:
    return ROOT / "params" / "wear" / f"{Path(profile).stem}.yaml"


def get_policy(name: str) -> Policy:
    """Raises InputError for a name that is not there."""
    if name not in POLICIES:
        raise InputError(f"policy {name!r}: allowed are {', '.join(POLICIES)}")
    return POLICIES[name]
