"""Checks of exercise 2."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from forget_mi.attacks import Evidence
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
from forget_mi.metrics import binary_auc

MEMBERS = np.array([0.9, 0.8, 0.8, 0.4, 0.1])


STRANGERS = np.array([0.8, 0.5, 0.3, 0.3, 0.2, 0.1, 0.0, -0.1, -0.2, -0.3])


@exercise
def rates(function: Any) -> str:
    """TPR and FPR at a threshold."""
    found = array(call(function, MEMBERS, STRANGERS, 0.8, name="rates"), "what rates gives", (2,))
    close(
        found,
        [0.6, 0.1],
        "a rate",
        {
            "TPR comes first, FPR second.": np.array([0.1, 0.6]),
            "A score at the threshold is called a member, too (>=).": np.array([0.2, 0.0]),
            "These are counts; shares are asked for.": np.array([3.0, 1.0]),
            "These are the shares below the threshold; members are those with high "
            "scores.": np.array([0.4, 0.9]),
        },
    )
    return "Moving the threshold trades one against the other."


@exercise
def auc(function: Any) -> str:
    """The chance to order a pair rightly."""
    right = binary_auc(MEMBERS, STRANGERS)
    found = number(call(function, MEMBERS, STRANGERS, name="auc"), "the area", 0, 1)
    without_ties = float((MEMBERS[:, None] > STRANGERS).mean())
    close(
        found,
        right,
        "the area",
        {
            "Ties are left out; they count one half.": without_ties,
            "Ties count as won; they count one half.": float(
                (MEMBERS[:, None] >= STRANGERS).mean()
            ),
            "The other way round: members should score above strangers.": 1 - right,
        },
        1e-9,
    )
    return "That is the Mann-Whitney U statistic, divided by the number of pairs."


@exercise
def tpr_at(function: Any) -> str:
    """The left end of the curve."""
    value = number(call(function, MEMBERS, STRANGERS, 0.1, name="tpr_at"), "the rate", 0, 1)
    close(
        value,
        0.6,
        "TPR at 10 % FPR (five members, ten strangers)",
        {"Of ten strangers one may be accused at 10 %; here none is.": 0.2,
         "The threshold lies at the second stranger's score, 0.5, and accuses two if a score at it "
         "counts.": 0.8},
        1e-9,
    )  # fmt: skip
    none = number(call(function, MEMBERS, STRANGERS, 0.05, name="tpr_at"), "the rate", 0, 1)
    close(none, 0.2, "TPR at 5 % FPR, where none of ten strangers may be accused,",
          {"A member who ties with the top stranger can't be called "
           "alone.": 0.6}, 1e-9)  # fmt: skip
    tied = number(
        call(function, np.array([3.0, 1.0]), np.array([2.0, 2.0, 0.0, 0.0]), 0.25, name="tpr_at"),
        "the rate",
    )
    close(tied, 0.5, "TPR at 25 % FPR where the two top strangers tie",
          {"Two strangers tie at the top: with one allowed, the threshold is above "
           "both.": 1.0}, 1e-9)  # fmt: skip
    return "With few strangers the left end is coarse: one in ten is the finest that ten can show."


@exercise
def draw_patients(function: Any) -> str:
    """A bootstrap draw of patients."""
    patients = np.array([4, 4, 4, 1, 2, 2, 9, 9, 9, 9])
    whole, sizes, repeated = (
        {p: set(np.flatnonzero(patients == p)) for p in np.unique(patients)},
        set(),
        False,
    )
    for seed in range(40):
        found = call(function, patients, np.random.default_rng(seed), name="draw_patients")
        if np.ndim(found) != 1 or np.asarray(found).dtype.kind not in "iu":
            raise NotYetError(
                "Positions of records are asked for, whole numbers in a row; it gives "
                f"{describe(found)}."
            )
        found = np.asarray(found)
        if len(found) and (found.min() < 0 or found.max() >= len(patients)):
            raise NotYetError(
                "A position lies outside of the records: are these patients' numbers instead of "
                "positions?"
            )
        count, times = np.bincount(found, minlength=len(patients)), 0
        for patient, records in whole.items():
            of_patient = {int(count[record]) for record in records}
            if len(of_patient) > 1:
                raise NotYetError(
                    f"Patient {patient} was drawn with some of the records only; a patient comes "
                    "whole."
                )
            times += of_patient.pop()
        if times != len(whole):
            raise NotYetError(
                f"{times} patients were drawn; it should be as many as there are, {len(whole)}."
            )
        sizes.add(len(found))
        repeated |= bool((count > 1).any())
    if not repeated:
        raise NotYetError("Nobody is ever drawn twice; a bootstrap draws with replacement.")
    if len(sizes) == 1:
        raise NotYetError("Every draw has the same number of records: is the generator `rng` used?")
    return "The number of records differs from draw to draw: that, too, is part of the uncertainty."


@exercise
def found(answer: Any, evidence: Evidence) -> str:
    """The loss attack on each tower."""
    if not isinstance(answer, Mapping) or set(answer) != {"image", "text"}:
        raise NotYetError(
            f"A dictionary with the keys image and text is asked for; it is {describe(answer)}."
        )
    for tower in evidence.forget.towers:
        if tower == "fused":
            continue
        right = binary_auc(
            -evidence.forget.cross_entropy(tower), -evidence.test.cross_entropy(tower)
        )
        close(
            number(answer[tower], f"the area of {tower}", 0, 1),
            right,
            f"the area of {tower}",
            {f"For {tower} the sign is wrong: a *small* loss means member.": 1 - right},
        )
    return "Each tower leaks on its own; whoever can ask one of them needs no fused prediction."


@exercise
def reading(answer: Any) -> str:
    """Less than retrained is not better."""
    chosen(
        answer,
        "marked",
        {
            "passed": "Strangers are called members in 21 % of cases; whoever is called one more "
            "rarely stands out.",
            "noise": "It may be noise, with few patients; but it can also mean something, and an "
            "interval would tell.",
        },
    )
    return (
        "The goal is to be as close to the retrained model as two retrained models are to each "
        "other."
    )
