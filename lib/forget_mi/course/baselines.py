"""Checks of exercise 5."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import torch
from torch.nn.functional import cross_entropy

from forget_mi.course.answers import NotYetError, call, chosen, close, describe, exercise, number


@exercise
def neg_grad_plus(function: Any) -> str:
    """Descent on D_r, ascent on D_f."""
    generator = torch.Generator().manual_seed(5)
    forget, retain = torch.randn(3, 4, generator=generator), torch.randn(6, 4, generator=generator)
    y_f, y_r = torch.tensor([0, 1, 2]), torch.tensor([0, 1, 2, 3, 0, 1])
    f, r = cross_entropy(forget, y_f).item(), cross_entropy(retain, y_r).item()
    found = number(call(function, forget, y_f, retain, y_r, 0.3, name="neg_grad_plus"), "the loss")
    close(
        found,
        0.3 * r - 0.7 * f,
        "the loss",
        {
            "Minimising this *lowers* the forgotten records' loss; it should rise.": 0.3 * r
            + 0.7 * f,
            "Signs turned around: minimising this makes everyone who stays worse.": 0.7 * f
            - 0.3 * r,
            "alpha weighs the retain part, 1 - alpha the forget part.": 0.7 * r - 0.3 * f,
            "alpha is not used.": r - f,
        },
    )
    return (
        "It has no lower bound: the forget part can fall without end. That is why it has to be "
        "stopped."
    )


@exercise
def stop_at(function: Any) -> str:
    """The first epoch that has reached a stranger's loss."""
    cases = (
        ([0.2, 0.7, 1.3, 1.9], 1.2, 2),
        ([0.2, 1.2], 1.2, 1),
        ([0.1, 0.2, 0.3], 1.0, 2),
        ([1.5, 2.0], 1.0, 0),
    )
    for losses, level, right in cases:
        found = number(call(function, losses, level, name="stop_at"), "the epoch")
        if found != right:
            why = (
                "none has reached it: the last one"
                if max(losses) < level
                else f"it has reached {level} there"
            )
            given = f"For losses {losses} and a validation loss of {level}"
            raise NotYetError(f"{given} it gives {found:g}; it should be {right} ({why}).")
    return "Neither the test set nor a retrained model was asked."


@exercise
def diagnosis(function: Any) -> str:
    """Under, over, damaged or fine."""
    cases = (
        ((0.95, 0.75, 0.5, 0.75), "under"),
        ((0.3, 0.76, 0.5, 0.75), "over"),
        ((0.52, 0.75, 0.5, 0.75), "fine"),
        ((0.5, 0.6, 0.5, 0.75), "damaged"),
        ((0.9, 0.6, 0.5, 0.75), "damaged"),
        ((0.5, 0.74, 0.46, 0.75), "fine"),
    )
    for numbers, right in cases:
        found = call(function, *numbers, name="diagnosis")
        if found not in ("under", "over", "damaged", "fine"):
            raise NotYetError(
                "diagnosis should give one of under, over, damaged, fine; it gives "
                f"{describe(found)}."
            )
        if found != right:
            given = (
                f"Attack {numbers[0]}, test AUC {numbers[1]}; of the retrained model "
                f"{numbers[2]} and {numbers[3]}"
            )
            raise NotYetError(f"{given}: that is {right!r}, not {found!r}.")
    return "Damage first: a broken model may look forgetful."


@exercise
def damaged(answer: Any, table: pd.DataFrame) -> str:
    """Methods that lose test AUC."""
    if not isinstance(answer, (set, frozenset, list, tuple)):
        raise NotYetError(f"A set of names is asked for; it is {describe(answer)}.")
    ten = table[np.isclose(table.forget_fraction, 0.1)]
    means = ten.groupby("method").test_auc.mean()
    right = set(means.index[means < means["retrain"] - 0.02]) - {"original", "retrain"}
    if set(answer) - set(means.index):
        raise NotYetError(
            f"{sorted(set(answer) - set(means.index))[0]!r} is no method of the table."
        )
    extra, missing = sorted(set(answer) - right), sorted(right - set(answer))
    if extra:
        found = (
            f"its mean test AUC is {means[extra[0]]:.3f}, that of the retrained models "
            f"{means['retrain']:.3f}"
        )
        raise NotYetError(f"{extra[0]} does not belong here: {found}.")
    if missing:
        raise NotYetError(
            f"{len(missing)} of the methods are missing. Are only requests of 10 % looked at?"
        )
    return "Ascent pays with those who stay."


@exercise
def fair(answer: Any) -> str:
    """One rule for all."""
    chosen(
        answer,
        "rule",
        {
            "best": "That chooses by the judge: nobody who serves a request has a retrained model "
            "to look at.",
            "defaults": "They were chosen for other data and models; a method may fail for its "
            "learning rate alone.",
        },
    )
    return "And report what the budget was."
