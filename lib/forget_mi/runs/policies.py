"""When deletion requests are served, and when the model is retrained: the policies of a service,
and what a simulated year compares."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from forget_mi.errors import InputError

WEEK, MONTH, QUARTER = 7.0, 91 / 3, 91.0  # days; three months are a quarter, four a year of 364


class Waiting(Protocol):
    """A request that waits. received: when, in days. urgent: whether it may not wait."""

    received: float
    urgent: bool


@dataclass(frozen=True)
class Policy:
    """every: days between the days on which the queue is served (the end of each week, month or
    quarter); 0 serves each request at once. urgent: whether urgent requests are served at once all the same. retrain: None, or what makes
    the model be trained again without everyone served so far: 'instead' (the queue is served by it,
    and nothing is unlearned), 'quarterly', or 'alarm' (where the estimated wear is over the
    threshold)."""

    every: float = 0.0
    urgent: bool = True
    retrain: str | None = None

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


# By the name that the service's --policy takes.
POLICIES = {
    "at_once": Policy(),
    "weekly": Policy(WEEK),
    "monthly": Policy(MONTH),
    "at_once-quarterly": Policy(retrain="quarterly"),
    "monthly-quarterly": Policy(MONTH, retrain="quarterly"),
    "at_once-alarm": Policy(retrain="alarm"),
    "monthly-alarm": Policy(MONTH, retrain="alarm"),
    "retrain_at_once": Policy(retrain="instead"),
    "retrain_monthly": Policy(MONTH, urgent=False, retrain="instead"),
    "retrain_quarterly": Policy(QUARTER, urgent=False, retrain="instead"),
}


def get_policy(name: str) -> Policy:
    """Raises InputError for a name that is not there."""
    if name not in POLICIES:
        raise InputError(f"policy {name!r}: allowed are {', '.join(POLICIES)}")
    return POLICIES[name]
