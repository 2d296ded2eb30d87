"""The deletion letters of a simulated year."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, NamedTuple

import numpy as np
from pydantic import Field

from forget_mi.config import config
from forget_mi.errors import InputError

DAYS = 364  # 52 weeks, four quarters of 91 days


@config
class LetterConfig:
    """a_week: how many letters come in a week, on average. family, ward: shares of them that name a
    family (4 to 6 patients) or a ward (10 to 15); the others name one to three. urgent: share that
    may not wait."""

    a_week: Annotated[float, Field(gt=0)] = 0.5
    family: Annotated[float, Field(ge=0, le=1)] = 0.06
    ward: Annotated[float, Field(ge=0, le=1)] = 0.02
    urgent: Annotated[float, Field(ge=0, le=1)] = 0.1


class Letter(NamedTuple):
    """received: day of the year (0 to 363). patients: ids of the cohort."""

    received: float
    patients: tuple[str, ...]
    urgent: bool


def draw_letters(
    patients: Sequence[str], settings: LetterConfig, seed: int, days: int = DAYS
) -> list[Letter]:
    """A year's letters by day: Poisson arrivals, nobody named twice.

    Raises InputError where they would name more than half of the patients.
    """
    rng = np.random.default_rng([seed, 61])
    order = iter(rng.permutation(np.asarray(patients, dtype=object)))
    sizes = {"one": (1, 3), "family": (4, 6), "ward": (10, 15)}
    shares = [1 - settings.family - settings.ward, settings.family, settings.ward]
    if shares[0] < 0:
        raise InputError(
            f"letters: family + ward = {settings.family + settings.ward}: at most 1 is allowed"
        )
    letters, named = [], 0
    for day in np.sort(rng.integers(days, size=rng.poisson(settings.a_week * days / 7))):
        low, high = sizes[rng.choice(list(sizes), p=shares)]
        count = int(rng.integers(low, high + 1))
        named += count
        if named > len(patients) // 2:
            raise InputError(
                f"letters.a_week = {settings.a_week}: a year of them names more than half of the "
                f"{len(patients)} patients in training"
            )
        letters.append(
            Letter(
                float(day),
                tuple(str(next(order)) for _ in range(count)),
                bool(rng.random() < settings.urgent),
            )
        )
    return letters
