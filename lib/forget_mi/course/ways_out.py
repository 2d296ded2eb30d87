"""Checks of exercise 9."""

from __future__ import annotations

from typing import Any

import numpy as np

from forget_mi.course.answers import array, call, chosen, close, exercise, number
from forget_mi.course.lesson import Lesson
from forget_mi.data import rows_of


@exercise
def touched(function: Any) -> str:
    """Share of the shards that a request touches."""
    cases = [(1, 8), (5, 4), (3, 1)]
    found = np.array([number(call(function, *case, name="touched"), "the share") for case in cases])
    right = np.array([1 - (1 - 1 / s) ** k for k, s in cases])
    close(
        found,
        right,
        "the share",
        {
            "Two patients may be in one shard: the shares do not add up.": np.array(
                [k / s for k, s in cases]
            ),
            "This is the share of shards that is left alone.": 1 - right,
            "With more shards than patients this is right only if no two share one.": np.array(
                [min(1, k / s) for k, s in cases]
            ),
        },
    )
    return "A request of many patients touches nearly every shard."


@exercise
def repeated(function: Any) -> str:
    """Share of a shard's training that is done again."""
    found = np.array(
        [
            number(call(function, *case, name="repeated"), "the share")
            for case in [(1, 4), (4, 4), (2, 3)]
        ]
    )
    close(
        found,
        [1, 0.4, 5 / 6],
        "the share",
        {
            "Stage i takes i slices; the stages are not alike.": np.array([1, 1 / 4, 2 / 3]),
            "This is what is kept; what is done again is asked for.": np.array([0, 0.6, 1 / 6]),
            "Training starts again before the first slice that is touched, not after it.": np.array(
                [0.9, 0, 0.5]
            ),
        },
    )
    return "Who is in the last slice is cheap to forget, who is in the first is not."


@exercise
def bound(function: Any) -> str:
    """What differential privacy leaves an attacker."""
    cases = [(0.0, 0.0, 0.05), (1.0, 0.0, 0.05), (3.0, 0.01, 0.05), (8.0, 0.0, 0.05)]
    found = np.array([number(call(function, *case, name="bound"), "the bound") for case in cases])
    first = np.array([np.exp(e) * f + d for e, d, f in cases])
    second = np.array([1 - np.exp(-e) * (1 - d - f) for e, d, f in cases])
    close(
        found,
        np.minimum(first, second),
        "the bound",
        {
            "This is the first line alone; the second holds as well, and the smaller rules.": first,
            "This is the second line alone; the first holds as well, and the smaller "
            "rules.": second,
            "Nobody finds more than all; but the second line says more.": np.minimum(first, 1),
        },
    )
    return "At epsilon 8 hardly anything is promised; what is found there is for an audit to say."


@exercise
def numbers(answer: Any, lesson: Lesson) -> str:
    """Shards for a tenth, and what each knows of the rarest class."""
    found = array(answer, "the answer", (2,))
    train = lesson.cohort.table.iloc[rows_of(lesson.cohort, "train")]
    label = train.groupby("patient_id").label.agg(lambda x: x.mode().iloc[0])
    rarest = int(label.value_counts().min())
    close(number(found[0], "the number of shards"), 10, "the number of shards", {})
    close(
        number(found[1], "the patients a shard"),
        rarest / 10,
        "the patients of the rarest class in a shard",
        {"This is of all training patients; the rarest class is asked for.": len(label) / 10},
    )
    return f"A shard would learn its rarest class from {rarest / 10:.0f} people."


@exercise
def choice(answer: Any) -> str:
    """Who is protected without asking."""
    chosen(
        answer,
        "prevent",
        {
            "prepare": "A model in shards knows its patients by heart until they ask.",
            "unlearn": "Only those who ask are forgotten; all others are still known by heart.",
            "none": "One of the three promises something to each patient, whether they ask or not.",
        },
    )
    return "And it is the only one that has to be paid for by everybody, in test AUC."
