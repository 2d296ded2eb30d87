"""Checks of exercise 8."""

from __future__ import annotations

import hashlib
import hmac
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from forget_mi.course.answers import NotYetError, call, chosen, describe, exercise, number
from forget_mi.course.lesson import Lesson
from forget_mi.data import read_forget_csv
from forget_mi.errors import InputError


@exercise
def write_request(function: Any, lesson: Lesson) -> str:
    """The forget CSV, and who can't be served."""
    training = (
        lesson.cohort.table.patient_id[lesson.cohort.table.split == "train"].unique().tolist()
    )
    a, b, c = training[:3]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "forget.csv"
        left = call(
            function, [b, "nobody", a, b, c, "nobody"], set(training), path, name="write_request"
        )
        if not path.is_file():
            raise NotYetError("No file was written at `path`.")
        try:
            columns = list(pd.read_csv(path).columns)
            served = read_forget_csv(path)
        except (InputError, ValueError) as error:
            raise NotYetError(
                f"The library can't read the CSV: {str(error).replace(folder, '')}"
            ) from None
        rows = len(pd.read_csv(path))
    if columns != ["subject_id"]:
        raise NotYetError(
            "The CSV should have the one column subject_id; it has "
            f"{', '.join(map(repr, columns))}."
        )
    if "nobody" in served:
        raise NotYetError(
            "Somebody who was never in training is in the request; it would be refused."
        )
    if rows != len(set(served)):
        raise NotYetError("A person who has written twice stands in the CSV twice.")
    if served != [b, a, c]:
        raise NotYetError(
            "The request should name three people in the order of their letters; it names "
            f"{len(served)}."
        )
    if not isinstance(left, (list, tuple)) or list(left) != ["nobody"]:
        raise NotYetError(
            f"One person can't be served, and should be named once; you give {describe(left)}."
        )
    return "And the person who can't be served gets an answer, too."


@exercise
def pseudonym(function: Any) -> str:
    """HMAC-SHA256, 16 digits."""
    found = call(function, "S00012", "a secret", name="pseudonym")
    if not isinstance(found, str):
        raise NotYetError(f"A text of 16 digits is asked for; it gives {describe(found)}.")
    whole = hmac.new(b"a secret", b"S00012", hashlib.sha256).hexdigest()
    mistakes = {
        whole: "These are all 64 digits; the first 16 are asked for.",
        hmac.new(b"S00012", b"a secret", hashlib.sha256).hexdigest()[
            :16
        ]: "Key and message are exchanged: the salt is the key.",
        hashlib.sha256(b"S00012").hexdigest()[:16]: "The salt is not used.",
        hashlib.sha256(b"a secretS00012").hexdigest()[
            :16
        ]: "This hashes salt and id written together; HMAC is asked for.",
        hashlib.sha256(b"S00012a secret").hexdigest()[
            :16
        ]: "This hashes id and salt written together; HMAC is asked for.",
    }
    if found != whole[:16]:
        raise NotYetError(
            mistakes.get(
                found,
                f"For 'S00012' and the salt 'a secret' it gives {found[:20]!r}; that is another "
                "hash.",
            )
        )
    return "The same patient, the same id; without the salt it leads nowhere."


@exercise
def why(answer: Any) -> str:
    """Hospital numbers can be listed."""
    chosen(
        answer,
        "list",
        {
            "slow": "A hash takes a microsecond; that is the attacker's advantage.",
            "collide": "With 16 digits that is far less likely than that the building burns down.",
        },
    )
    return "A few million numbers are hashed in a second."


@exercise
def verdict(function: Any) -> str:
    """The test of one patient."""
    strangers, known = np.arange(40.0), np.full(10, 60.0)
    unsure = np.array([60.0] * 4 + [20.0] * 6)
    cases = (
        ((60.0, strangers, known), "still found", "nobody scores as high"),
        ((39.0, strangers, known), "still found", "one stranger scores as high: p is 2 / 41"),
        ((38.0, strangers, known), "not told", "two strangers score as high: p is 3 / 41"),
        ((5.0, strangers, known), "not told", "the test finds every member"),
        ((5.0, strangers, unsure), "could not have told", "the test finds 4 of 10 members"),
        ((60.0, strangers, unsure), "still found", "who is found is found"),
        ((60.0, strangers[:10], known), "could not have told", "p can't be below 1 / 11"),
    )
    for arguments, right, why in cases:
        found = call(function, *arguments, name="verdict")
        if found not in ("still found", "not told", "could not have told"):
            raise NotYetError(
                "verdict should give 'still found', 'not told' or 'could not have told'; it gives "
                f"{describe(found)}."
            )
        if found != right:
            raise NotYetError(f"It is {right!r}, not {found!r}: {why}.")
    return "With ten strangers nobody can be found at 5 %, however much is remembered."


@exercise
def needed(answer: Any) -> str:
    """0.63 / sqrt(n) < 0.1."""
    found = number(answer, "the number of patients", 1)
    if found != 40:
        raise NotYetError(
            f"With {found:g} patients the half width is {0.63 / found**0.5:.4f}; it should be just "
            "below .1."
        )
    return (
        "Most requests are smaller. Ten requests together may not be; that is why a study "
        "audits earlier ones again."
    )


@exercise
def cheapest(function: Any) -> str:
    """The cheapest policy within both limits."""
    table = pd.DataFrame(
        {
            "trainings": [0.6, 0.4, 1.1, 26.0],
            "wait": [0, 31, 0, 0],
            "gap": [0.12, 0.04, 0.04, 0.03],
        },
        index=["at_once", "monthly", "at_once-together", "retrain_at_once"],
    )
    cases = (
        ((31, 0.05), "monthly", "a queue of 31 days is allowed"),
        ((30, 0.05), "at_once-together", "monthly waits 31 days, at_once has a gap of .12"),
        ((30, 0.2), "at_once", "its gap is allowed, and only monthly, which waits, costs less"),
        ((0, 0.04), "at_once-together", "a limit that is just met is met"),
        ((0, 0.03), "retrain_at_once", "every other one has a larger gap"),
        ((0, 0.02), "none", "no policy is within both limits"),
    )
    for limits, right, why in cases:
        found = call(function, table.copy(), *limits, name="cheapest")
        if found != right:
            raise NotYetError(
                f"With a wait of at most {limits[0]} days and a gap of at most {limits[1]} it is "
                f"{right!r}, not {describe(found)}: {why}."
            )
    return "`studies.policy_costs` does this for a simulated year, with your own prices."
