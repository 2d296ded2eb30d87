"""Checks of exercise 7."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from forget_mi.course.answers import NotYetError, array, call, chosen, close, exercise, number


@exercise
def fold_of_records(function: Any) -> str:
    """Folds by patient."""
    patients = np.array([5, 5, 5, 2, 2, 9, 9, 9, 9, 1, 7, 7, 3])
    seen = set()
    for seed in range(20):
        found = array(
            call(function, patients, 2, np.random.default_rng(seed), name="fold_of_records"),
            "the folds",
            (13,),
        )
        if found.dtype.kind not in "iu" or not set(found.tolist()) <= {0, 1}:
            raise NotYetError(
                "Folds are the whole numbers 0 to folds - 1; these are "
                f"{sorted(set(found.tolist()))}."
            )
        for patient in np.unique(patients):
            if len(set(found[patients == patient])) > 1:
                raise NotYetError(
                    f"Patient {patient} is in two folds: one of the references would know them."
                )
        sizes = [len({int(p) for p in patients[found == k]}) for k in (0, 1)]
        if sizes != [3, 3]:
            raise NotYetError(
                f"Six patients in two folds should be three and three; here they are {sizes[0]} "
                f"and {sizes[1]}."
            )
        seen.add(tuple(found.tolist()))
    if len(seen) == 1:
        raise NotYetError("Every generator gives the same folds: is `rng` used?")
    three = array(
        call(function, patients, 3, np.random.default_rng(0), name="fold_of_records"),
        "the folds",
        (13,),
    )
    if set(three.tolist()) != {0, 1, 2}:
        raise NotYetError(f"With folds = 3 the folds are {sorted(set(three.tolist()))}.")
    return "Whatever somebody's records say of each other stays in one fold."


@exercise
def targets(function: Any) -> str:
    """Each record by the reference that is a stranger to it."""
    outputs = np.random.default_rng(7).dirichlet(np.ones(3), size=(2, 5))
    fold = np.array([0, 1, 1, 0, 1])
    index = np.arange(5)
    close(
        array(call(function, fold, outputs, name="targets"), "the targets", (5, 3)),
        outputs[fold, index],
        "a target",
        {
            "These are from the reference that *knows* the patient: reference k is trained outside "
            "of fold k.": outputs[1 - fold, index],
            "This is the mean over both references; one of them knows the patient.": outputs.mean(
                0
            ),
        },
    )
    return "Reference k never saw fold k, so it may teach it."


@exercise
def kl(function: Any) -> str:
    """KL(stranger || model)."""
    generator = torch.Generator().manual_seed(8)
    a, b = (2 * torch.randn(6, 4, generator=generator) for _ in range(2))
    s, f = a.log_softmax(-1), b.log_softmax(-1)
    right = (s.exp() * (s - f)).sum(-1).mean().item()
    close(
        number(call(function, a, b, name="kl"), "the divergence"),
        right,
        "the divergence",
        {
            "This is KL(model || stranger): the weights are the stranger's probabilities.": (
                f.exp() * (f - s)
            )
            .sum(-1)
            .mean()
            .item(),
            "The records are summed; their mean is asked for.": right * 6,
            "The mean is over classes, too; the divergence of a record is a sum over its "
            "classes.": right / 4,
            "The sign is the wrong way round; a divergence is never negative.": -right,
            "Logits are not log probabilities; take log_softmax first.": (a.exp() * (a - b))
            .sum(-1)
            .mean()
            .item(),
        },
    )
    return "Zero exactly where the model says what the stranger says."


@exercise
def break_even(function: Any) -> str:
    """From how many requests on references pay."""
    for values, right in (((0.1, 0.1, 1.1), 2), ((0.2, 0.2, 2.9), 5), ((0.0, 0.0, 0.5), 1)):
        found = number(call(function, *values, name="break_even"), "the number of requests")
        if found != right:
            total = values[2] + found * (values[0] + values[1])
            why = (
                f"{found:g} requests cost {total:.2f} trainings that way, and {found:g} by "
                "retraining"
            )
            raise NotYetError(
                f"For {values} it gives {found:g}; the smallest number that is cheaper is {right} "
                f"({why})."
            )
    return "With requests that may wait for each other, retraining gets cheaper, too."


@exercise
def reason(answer: Any) -> str:
    """Siblings leak."""
    chosen(
        answer,
        "siblings",
        {
            "overfit": "They were trained as the original was; what they know by heart is what "
            "they have seen.",
            "small": "Less data makes a reference less sure of strangers, not more.",
        },
    )
    return "By patient, always by patient."
