"""Checks of exercise 1."""

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
from forget_mi.training import Predictions


@exercise
def cross_entropy(function: Any) -> str:
    """-log p of each record's label."""
    rng = np.random.default_rng(1)
    p, y = rng.dirichlet(np.ones(4), 6), rng.integers(0, 4, 6)
    right = -np.log(p[np.arange(6), y])
    found = call(function, p, y, name="cross_entropy")
    if np.ndim(found) == 0:
        raise NotYetError(
            "cross_entropy gives one number for all records; one for each record is asked for."
        )
    close(
        array(found, "the loss", (6,)),
        right,
        "the loss",
        {
            "The sign is missing: the logarithm of a probability is negative, a loss is "
            "not.": -right,
            "These are the probabilities of the labels; their negative logarithm is asked "
            "for.": np.exp(-right),
            "This is the loss of the most probable class; the record's own label is asked "
            "for.": -np.log(p.max(1)),
            "This is in bits (log2); a nat takes the natural logarithm.": right / np.log(2),
            "The logarithm has base 10; a nat takes the natural logarithm.": right / np.log(10),
        },
    )
    return "A record that the model is sure of costs nothing, however it came to be sure."


@exercise
def gaps(answer: Any, forget: Predictions, test: Predictions) -> str:
    """Mean loss of strangers less that of members, by tower."""
    if not isinstance(answer, Mapping) or set(answer) != {"image", "text", "fused"}:
        raise NotYetError(
            "A dictionary with the keys image, text and fused is asked for; it is "
            f"{describe(answer)}."
        )
    for tower in forget.towers:
        right = test.cross_entropy(tower).mean() - forget.cross_entropy(tower).mean()
        close(
            number(answer[tower], f"the gap of {tower}"),
            right,
            f"the gap of {tower}",
            {
                f"The gap of {tower} has the wrong sign: strangers minus members.": -right,
                f"For {tower} this is the difference of the medians; the means are asked "
                "for.": np.median(test.cross_entropy(tower))
                - np.median(forget.cross_entropy(tower)),
            },
        )
    return "The larger the gap, the more is known of the members that can't be known of strangers."


@exercise
def ceiling(answer: Any) -> str:
    """(1 - q)(1 - e) + q c."""
    close(
        number(answer, "the ceiling", 0, 1),
        0.7 * 0.9 + 0.3 * 0.4,
        "the ceiling",
        {
            "The wrong labels are missing: where the image shows the severity, one in ten is still "
            "wrong.": 0.7 + 0.3 * 0.4,
            "What of the images that show nothing? There one can still name the commonest "
            "class.": 0.7 * 0.9,
            "The commonest class is 40 % of the labels as they are, wrong ones included.": 0.9
            * (0.7 + 0.3 * 0.4),
        },
    )
    return "Whoever is right more often has met these patients before."


@exercise
def mean_by_patient(function: Any) -> str:
    """The mean of each patient's losses."""
    losses, patients = np.array([1.0, 2.0, 6.0, 0.5, 3.0]), np.array([7, 3, 7, 9, 3])
    found = array(call(function, losses, patients, name="mean_by_patient"), "the result", (3,))
    right = np.array([2.5, 3.5, 0.5])
    close(
        found,
        right,
        "the mean",
        {
            "The patients should be sorted by their number; these are in the order in which they "
            "appear.": right[[1, 0, 2]],
            "These are sums; a patient with many records would stand out by that alone.": np.array(
                [5.0, 7.0, 0.5]
            ),
        },
    )
    return "From here on, a patient is one point."


@exercise
def reply(answer: Any) -> str:
    """What a test score says about members."""
    chosen(
        answer,
        "loss",
        {
            "agree": "A model can do well on strangers and know its members by heart, as in the "
            "lesson.",
            "accuracy": "Accuracy on strangers is as silent about members as the AUC is.",
        },
    )
    return "And ask by patient."
