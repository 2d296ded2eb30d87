"""Checks of exercise 6."""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy.stats import norm

from forget_mi.course.answers import (
    NotYetError,
    array,
    call,
    chosen,
    close,
    describe,
    exercise,
    number,
)


@exercise
def margin(function: Any) -> str:
    """log p - log(1 - p)."""
    rng = np.random.default_rng(6)
    p, y = rng.dirichlet(np.ones(4), 5), rng.integers(0, 4, 5)
    mine = p[np.arange(5), y]
    close(
        array(call(function, p, y, name="margin"), "the margin", (5,)),
        np.log(mine) - np.log(1 - mine),
        "the margin",
        {
            "This is the log probability alone; log(1 - p) has to be taken off.": np.log(mine),
            "The sign is the wrong way round.": np.log(1 - mine) - np.log(mine),
            "This is the ratio p / (1 - p); its logarithm is asked for.": mine / (1 - mine),
        },
    )
    return "0 where the label is as likely as all others together."


@exercise
def means(function: Any) -> str:
    """mu_in and mu_out."""
    margins = np.array([[1.0, 2.0, 0.0], [3.0, -2.0, 4.0], [-1.0, 0.0, 2.0], [-3.0, 6.0, 8.0]])
    member = np.array([[1, 0, 1], [1, 1, 0], [0, 0, 1], [0, 1, 0]], bool)
    found = call(function, margins, member, name="means")
    if not isinstance(found, (tuple, list)) or len(found) != 2:
        raise NotYetError(f"A pair (known, unknown) is asked for; it gives {describe(found)}.")
    right = np.array([2.0, 2.0, 1.0]), np.array([-2.0, 1.0, 6.0])
    for part, expected, other, what in zip(
        found, right, right[::-1], ("mu_in", "mu_out"), strict=True
    ):
        close(
            array(part, what, (3,)),
            expected,
            what,
            {
                "mu_in comes first, mu_out second.": other,
                f"{what} divides by the number of all models; only those of its group "
                "count.": expected / 2,
            },
        )
    return "In and out, for each record its own."


@exercise
def lira(function: Any) -> str:
    """The log likelihood ratio."""
    m, mu_in, mu_out = (
        np.array([0.0, 3.0, -2.0]),
        np.array([2.0, 3.0, 1.0]),
        np.array([-1.0, 2.5, -2.0]),
    )
    right = norm.logpdf(m, mu_in, 0.5) - norm.logpdf(m, mu_out, 2.0)
    close(
        array(call(function, m, mu_in, mu_out, 0.5, 2.0, name="lira"), "the score", (3,)),
        right,
        "the score",
        {
            "Higher should mean member: in minus out.": -right,
            "These are densities; take their logarithms, or the ratio's.": norm.pdf(m, mu_in, 0.5)
            - norm.pdf(m, mu_out, 2.0),
            "This is the ratio of the densities; its logarithm is asked for.": np.exp(right),
            "The two spreads are exchanged.": norm.logpdf(m, mu_in, 2.0)
            - norm.logpdf(m, mu_out, 0.5),
        },
    )
    return "A margin that is usual for those who know the record, and not for the others."


@exercise
def level(answer: Any) -> str:
    """Bonferroni."""
    close(
        number(answer, "the level", 0, 1),
        1 - 0.05 / 72,
        "the level",
        {
            "This is the chance to be wrong that each may have; the level is one minus that.": 0.05
            / 72,
            "The towers and levels are checks, too: 72 in all.": 1 - 0.05 / 12,
            "That is the level for one look.": 0.95,
            "This is the level of all together if each were at 95 % and independent.": 0.95**72,
        },
        1e-6,
    )
    return "Wide intervals are the price of looking often."


@exercise
def largest_rate(function: Any) -> str:
    """The rule of three."""
    found = np.array(
        [number(call(function, n, name="largest_rate"), "the rate", 0, 1) for n in (30, 200)]
    )
    right = 1 - 0.05 ** (1 / np.array([30, 200]))
    close(
        found,
        right,
        "the rate",
        {
            "This is the rule of thumb 3 / n; solve the equation itself.": 3 / np.array([30, 200]),
            "This is 1 - f.": 1 - right,
        },
        1e-6,
    )
    return f"Nearly 3 / n: with 200 strangers nothing can be said below {right[1]:.1%}."


@exercise
def sentence(answer: Any) -> str:
    """What may be written."""
    chosen(
        answer,
        "indistinguishable",
        {
            "forgotten": "The interval holds .60 as well: a leak of that size would not have been "
            "seen.",
            "leak": "The intervals overlap nearly whole; .03 is far below what 24 patients can "
            "show.",
        },
    )
    return "And write the interval beside it."
