"""Checks of exercise 3."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

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
from forget_mi.course.lesson import Lesson
from forget_mi.metrics import mean_auc


@exercise
def gaps(function: Any) -> str:
    """Signed gaps to the mean of the retrained models."""
    found = call(
        function, {"a": 0.9, "b": 0.2}, [{"a": 0.4, "b": 0.3}, {"a": 0.6, "b": 0.5}], name="gaps"
    )
    if not isinstance(found, Mapping) or set(found) != {"a", "b"}:
        raise NotYetError(
            "gaps should give a dictionary with the same measures as the model; it gives "
            f"{describe(found)}."
        )
    values = np.array([number(found[name], f"the gap of {name!r}") for name in ("a", "b")])
    close(
        values,
        [0.4, -0.2],
        "a gap",
        {
            "The gap has no sign any more; whether a model lies above or below matters.": np.array(
                [0.4, 0.2]
            ),
            "The sign is the other way round: the model minus the retrained.": np.array(
                [-0.4, 0.2]
            ),
            "This is the gap to the first retrained model; the mean of all is asked for.": np.array(
                [0.5, -0.1]
            ),
            "This is the gap to the last retrained model; the mean of all is asked for.": np.array(
                [0.3, -0.3]
            ),
        },
    )
    return "Above: something is remembered. Below: they are marked."


@exercise
def floor(function: Any) -> str:
    """Mean distance of two retrained models."""
    values = np.array([0.4, 0.5, 0.9])
    found = number(call(function, values, name="floor"), "the floor", 0)
    all_pairs = float(np.abs(values[:, None] - values).mean())
    close(
        found,
        1 / 3,
        "the floor",
        {
            "Each model is compared with itself, too; those pairs are always 0.": all_pairs,
            "This is the standard deviation; the mean distance of two is asked for.": float(
                values.std()
            ),
            "This is the standard deviation (n - 1); the mean distance of two is asked for.": float(
                values.std(ddof=1)
            ),
            "This is the largest distance; the mean over all pairs is asked for.": 0.5,
            "Without absolute values differences cancel.": 0.0,
        },
    )
    return "No method can be asked to be closer than that."


@exercise
def told_apart(function: Any) -> str:
    """Distance from a coin."""
    found = np.array(
        [number(call(function, auc, name="told_apart"), "the distance") for auc in (0.5, 0.9, 0.2)]
    )
    close(
        found,
        [0, 0.4, 0.3],
        "the distance",
        {
            "An AUC below .5 is as good to an attacker as one above.": np.array([0, 0.4, -0.3]),
            "An AUC below .5 counts as nothing here; an attacker who turns around uses "
            "it.": np.array([0, 0.4, 0.0]),
            "This is the better AUC of the two; its distance from .5 is asked for.": np.array(
                [0.5, 0.9, 0.8]
            ),
        },
    )
    return "The Streisand effect, as a number."


@exercise
def numbers(answer: Any, lesson: Lesson) -> str:
    """Forget AUC, gap and floor of the run."""
    found = array(answer, "the answer", (3,))
    auc = {}
    for name in ("original", "retrained-1", "retrained-2"):
        predictions = lesson.predictions(name, "forget")
        auc[name] = mean_auc(predictions.labels, predictions.probabilities("fused"))
    first, second = auc["retrained-1"], auc["retrained-2"]
    right = (auc["original"], auc["original"] - (first + second) / 2, abs(first - second))
    for value, expected, what in zip(
        found, right, ("the original's AUC", "the gap", "the floor"), strict=True
    ):
        close(
            number(value, what),
            expected,
            what,
            {f"{what} has the wrong sign.": -expected} if what == "the gap" else {},
        )
    return (
        f"The gap is {right[1] / max(right[2], 1e-9):.0f} times what two honest models are apart."
    )


@exercise
def choice(answer: Any) -> str:
    """Within the floor, and not chosen by the gold standard."""
    chosen(
        answer,
        "a",
        {
            "b": ".30 is far below both retrained models: worse than a model that never saw these "
            "patients.",
            "c": "It was stopped by looking at the retrained models. Nobody who serves a request "
            "has them.",
            "neither": ".47 lies between two retrained models: closer can't be asked for.",
        },
    )
    return "A lies within the floor, and did not look at what judges it."
