"""One patient: is this person still found, pushed too far, or not told from a stranger?

A request names one to three people, and an area under a curve over three people says nothing. But
each of them can be judged alone, against strangers (patients of validation and test, whom the
model certainly never saw) under the same model. docs/measures.md has the formulas and the study
that calibrates them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.stats import binomtest

from forget_mi.errors import InputError
from forget_mi.evaluation.p_values import EXTRAPOLATION, hommel, shuffled_p, upper_p
from forget_mi.evaluation.patient_null import DRAWS, Null, Nulls, Records

FOUND, PUSHED = "still found", "pushed too far"


NOT_TOLD, COULD_NOT = "not told from a stranger", "this test could not have told"


# So many strangers need a record of a class before a record of that class can be judged.
MIN_OF_CLASS = 5


# A patient whom a test is too weak to call, but whose p-value is as small, is named all the same.
STANDS_OUT = 0.01


# So many patients of a request are also judged together.
TOGETHER = 8


# With more patients who stay, so many of them say what the power is.
MAX_MEMBERS = 1000


@dataclass(frozen=True)
class PatientTest:
    """What `judge_patients` found under one model.

    patients: a row a forgotten patient, worst first: patient, records, score (of the first look,
    less what strangers of the same class have, mean over the records), p (of the first look alone,
    one-sided), p_remembered and p_pushed (over all looks), adjusted_remembered and adjusted_pushed
    (the same over all patients and both sides), looks (by which they were found), power (share of
    those who stay that would be found in the patient's place, were nobody else of the request),
    verdict, reason. A p-value that can't be had is NaN.

    strangers, members: scores of the first look of strangers and of those who stay, as above.
    p_members: the p of those who stay. p_request: by side, of all patients together (empty for
    fewer than TOGETHER, or where nobody could be judged). power: share of requests of those who
    stay, of as many patients, that would be found by it. level: of all verdicts together.
    """

    patients: pd.DataFrame
    strangers: np.ndarray
    members: np.ndarray
    p_members: np.ndarray
    p_request: dict[str, float]
    power: float
    level: float

    def found(self, at: float) -> dict[str, float]:
        """Of a hundred forgotten patients, how many does an attacker find who accuses a share `at`
        of strangers: value, low and high (Wilson's interval over patients, 95 %), and power, the
        same share of those who stay. By the first look alone; NaN where nobody could be judged."""
        p = self.patients.p.dropna().to_numpy()
        stay = self.p_members[~np.isnan(self.p_members)]
        power = float((stay <= at).mean()) if len(stay) else math.nan
        if len(p) == 0:
            return {"value": math.nan, "low": math.nan, "high": math.nan, "power": power}
        seen = binomtest(int((p <= at).sum()), len(p))
        low, high = seen.proportion_ci(method="wilson")
        return {"value": seen.statistic, "low": float(low), "high": float(high), "power": power}

    @property
    def verdict(self) -> str:
        """What is said of the request, from its patients: whatever is wrong with anyone, or with
        all of them together; else that they are not told from strangers, where a patient or the
        request as a whole would have been; else that the test could not have told."""
        verdicts, together = self.patients.verdict, self._together()
        said = [n for n in _SIDES if verdicts.str.contains(n).any() or n in together]
        if said:
            return " and ".join(said)
        return NOT_TOLD if (verdicts == NOT_TOLD).any() or self.power >= 0.5 else COULD_NOT

    def in_words(self) -> str:
        """The verdicts on the patients in one sentence, with numbers."""
        patients, parts = self.patients, []
        n = len(patients)

        def count(some: int) -> str:
            return f"{some} of {n} " if n > 1 else ""

        for name in _SIDES:
            found = int(patients.verdict.str.contains(name).sum())
            if found:
                parts.append(f"{count(found)}{name}")
            if name in self._together():
                parts.append(f"all together {name} (p = {self.p_request[_SIDES[name]]:.2g})")
        told = patients[patients.verdict == NOT_TOLD]
        if len(told):
            parts.append(
                f"{count(len(told))}not told from a stranger, by a test that finds "
                f"{100 * told.power.min():.0f} % of those who are remembered"
            )
        unknown = patients[patients.verdict == COULD_NOT]
        if len(unknown):
            why = unknown.reason.iloc[0].split("; stands out")[0]
            parts.append(f"{count(len(unknown))}{COULD_NOT}{' alone' if n > 1 else ''} ({why})")
            apart = int((unknown.p_remembered <= STANDS_OUT).sum())
            if apart:
                parts.append(
                    f"{apart} of them stand{'s' if apart == 1 else ''} out above "
                    f"{100 * (1 - STANDS_OUT):.0f} % of strangers, where "
                    f"{STANDS_OUT * len(unknown):.1f} would by chance"
                )
        if not self._together() and self.power >= 0.5:
            parts.append(
                "all together not told from strangers, by a test that finds "
                f"{100 * self.power:.0f} % of such requests that are remembered"
            )
        return "; ".join(parts)

    def _together(self) -> list[str]:
        """What is wrong with all patients together."""
        return [n for n, side in _SIDES.items() if self.p_request.get(side, 1) <= self.level / 4]


_SIDES = {FOUND: "remembered", PUSHED: "pushed"}


def judge_patients(
    forget: Records,
    strangers: Records,
    members: Records,
    looks: Sequence[str],
    *,
    level: float = 0.05,
    seed: int = 0,
) -> PatientTest:
    """A verdict on each patient of `forget`, from scores of records under one model.

    strangers, members: records of patients whom the model certainly never saw, and of those who
    stay. looks: what each row of the scores is called; the first is the one that
    `PatientTest.found` counts by. level: chance that anyone of the request is called found or
    pushed though the model treats all of them as strangers.

    Of each look the scores are compared within a class (less the strangers' median), averaged over
    a patient's records, and set against the same of each stranger, resampled to as many records.
    Of several looks the smallest weighted p-value counts, itself set against the strangers'
    smallest. Then Hommel's correction over the patients, and Bonferroni's over both sides. With
    TOGETHER patients and more it has one half of the level; the other half has a permutation test
    of all of them together.

    Raises InputError where a score is not a number, or a patient is on two sides.
    """
    _check(forget, strangers, members, looks)
    who, counts = np.unique(forget.patients, return_counts=True)
    alone = level if len(who) < TOGETHER else level / 2
    forget, strangers, members = _within_class(forget, strangers, members)
    people = len(np.unique(strangers.patients))
    # Fewer than one patient needs allow no p-value at all, fewer than the request needs no verdict.
    reason = _too_few(people, 1, level)
    nulls = Nulls(strangers, _some_patients(members, MAX_MEMBERS, seed), seed)
    rows = []
    for patient, records in zip(who, counts, strict=True):
        own = forget.where(forget.patients == patient)
        why = reason
        if len(own.labels) == 0:
            why = f"fewer than {MIN_OF_CLASS} strangers have a record of the patient's class"
        row = {"patient": int(patient), "records": int(records), "reason": why}
        row |= _UNKNOWN if why else nulls.judge(own.scores, alone / (2 * len(who)), looks)
        rows.append(row)
    table = pd.DataFrame(rows, columns=_COLUMNS)
    p_request, power, p_members = {}, math.nan, np.full(0, np.nan)
    if table.p.notna().any():
        usual = nulls.of(int(np.median(np.unique(forget.patients, return_counts=True)[1])))
        p_members = upper_p(usual.members[0], usual.strangers[0])
        if len(who) >= TOGETHER:
            p_request, power = _together(table, usual, level / 4, seed)
    # Once it is certain that the request as a whole is not treated as strangers are, a wrong call
    # of a single patient is the only one left to make: it may have all of the level.
    at = level if min(p_request.values(), default=1.0) <= level / 4 else alone
    table = _with_verdicts(table, at, _too_few(people, len(who), level))
    means = [_patient_means(side, 0) for side in (strangers, nulls.members)]
    return PatientTest(table, *means, p_members, p_request, power, level)


_COLUMNS = ["patient", "records", "score", "p", "p_remembered", "p_pushed", "looks_remembered",
            "looks_pushed", "power", "reason"]  # fmt: skip


_UNKNOWN = {
    **dict.fromkeys(("score", "p", "p_remembered", "p_pushed", "power"), math.nan),
    **dict.fromkeys(("looks_remembered", "looks_pushed"), ""),
}


def _together(
    patients: pd.DataFrame, null: Null, threshold: float, seed: int
) -> tuple[dict[str, float], float]:
    """The p-value of all patients together by side, and which share of requests of those who stay
    is found by it: patients' and strangers' -log p are shuffled, and their means compared."""
    found = {}
    strangers = {}
    for side in _SIDES.values():
        smallest = null.smallest(side)
        strangers[side] = -np.log(upper_p(smallest, smallest, among_others=True)[0])
    for side, theirs in strangers.items():
        mine = -np.log(patients[f"p_{side}"].dropna().to_numpy())
        found[side] = shuffled_p(mine, theirs, seed)
    if len(null.members[0]) == 0:
        return found, math.nan
    rng, count = np.random.default_rng([seed, 79]), int(patients.p.notna().sum())
    stay = -np.log(null.p_of_members)
    drawn = [rng.choice(stay, count) for _ in range(DRAWS)]
    p = [shuffled_p(each, strangers["remembered"], seed) for each in drawn]
    return found, float(np.mean(np.array(p) <= threshold))


def _within_class(*sides: Records) -> list[Records]:
    """The scores less the strangers' median of the record's class (a stranger's: the other
    strangers'); records of a class that fewer than MIN_OF_CLASS strangers have are left out."""
    strangers = sides[1]
    labels = [
        label
        for label in np.unique(strangers.labels)
        if len(np.unique(strangers.patients[strangers.labels == label])) >= MIN_OF_CLASS
    ]
    found = []
    for side in sides:
        kept = side.where(np.isin(side.labels, labels))
        medians = np.zeros(kept.scores.shape)
        for label in labels:
            theirs, mine = strangers.where(strangers.labels == label), kept.labels == label
            medians[:, mine] = np.median(theirs.scores, axis=1, keepdims=True)
            for patient in np.unique(theirs.patients) if side is strangers else ():
                others = theirs.scores[:, theirs.patients != patient]
                own = mine & (kept.patients == patient)
                medians[:, own] = np.median(others, axis=1, keepdims=True)
        found.append(kept._replace(scores=kept.scores - medians))
    return found


def _patient_means(records: Records, look: int) -> np.ndarray:
    """Mean score of each patient by one look."""
    _, inverse = np.unique(records.patients, return_inverse=True)
    return np.bincount(inverse, weights=records.scores[look]) / np.bincount(inverse)


def _some_patients(records: Records, count: int, seed: int) -> Records:
    """The records of at most `count` patients, drawn at random."""
    who = np.unique(records.patients)
    if len(who) <= count:
        return records
    chosen = np.random.default_rng([seed, 71]).choice(who, count, replace=False)
    return records.where(np.isin(records.patients, chosen))


def strangers_needed(patients: int, level: float) -> int:
    """How many strangers a request of so many patients needs to be judged at a level: 1 / level,
    and so many that the smallest threshold is not more than EXTRAPOLATION times below what counting
    them can reach."""
    thresholds = (2 if patients < TOGETHER else 4) * patients / level
    return math.ceil(max(1 / level, thresholds / EXTRAPOLATION) - 1e-9)


def _too_few(strangers: int, patients: int, level: float) -> str:
    """Why nobody can be judged; empty where they can."""
    needed = strangers_needed(patients, level)
    if strangers >= needed:
        return ""
    people = "patient needs" if patients == 1 else "patients need"
    there = "no strangers" if strangers == 0 else f"{strangers} stranger{'s'[: strangers - 1]}"
    return f"{there}; {patients} {people} {needed} at level {level:g}"


def _with_verdicts(table: pd.DataFrame, level: float, few: str) -> pd.DataFrame:
    """The rows with adjusted p-values and a verdict each, worst first. few: why no patient of this
    request could be called."""
    for side in _SIDES.values():
        both_sides = 2 * hommel(table[f"p_{side}"].to_numpy(float))
        table[f"adjusted_{side}"] = np.minimum(both_sides, 1.0)
    verdicts, looks, reasons = [], [], []
    for row in table.itertuples():
        found = {FOUND: row.adjusted_remembered <= level, PUSHED: row.adjusted_pushed <= level}
        said, by = [], []
        for name, seen_by in ((FOUND, row.looks_remembered), (PUSHED, row.looks_pushed)):
            if found[name]:
                said.append(name)
                by.append(seen_by)
        why = row.reason or ("" if said else few)
        if not said and not why and not row.power >= 0.5:
            why = f"it finds {100 * row.power:.0f} % of those who stay"
            if row.p_remembered <= STANDS_OUT:
                why += f"; stands out, p = {row.p_remembered:.2g}"
        verdicts.append(" and ".join(said) or (COULD_NOT if why else NOT_TOLD))
        looks.append("; ".join(filter(None, by)))
        reasons.append(why)
    table = table.drop(columns=["looks_remembered", "looks_pushed"])
    table = table.assign(looks=looks, verdict=verdicts, reason=reasons)
    return table.sort_values("p_remembered", kind="stable", ignore_index=True)


def _check(forget: Records, strangers: Records, members: Records, looks: Sequence[str]) -> None:
    names = ("the forgotten patients", "strangers", "those who stay")
    sides = (forget, strangers, members)
    for name, side in zip(names, sides, strict=True):
        for look, scores in zip(looks, side.scores, strict=True):
            bad = int((~np.isfinite(scores)).sum())
            if bad:
                raise InputError(
                    f"scores of {look}: {bad} of {len(scores)} records of {name} are NaN or "
                    "infinite; the model's outputs have to be finite"
                )
    for a, b in ((0, 1), (0, 2), (1, 2)):
        both = np.intersect1d(sides[a].patients, sides[b].patients)
        if len(both):
            raise InputError(
                f"patient {both[0]} is among {names[a]} and among {names[b]} ({len(both)} "
                "such in all); a patient is on one side of the split"
            )
