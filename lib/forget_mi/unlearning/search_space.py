"""What a search may try: the SEARCH of each method's module."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple


class LogUniform(NamedTuple):
    """Any number between low and high, the logarithm uniform."""

    low: float
    high: float


class Uniform(NamedTuple):
    """Any number between low and high."""

    low: float
    high: float


class Whole(NamedTuple):
    """Any whole number from low to high."""

    low: int
    high: int


class OneOf(NamedTuple):
    """One of some values."""

    values: tuple


SearchSpace = Mapping[str, LogUniform | Uniform | Whole | OneOf]
