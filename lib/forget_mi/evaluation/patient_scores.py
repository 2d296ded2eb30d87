"""The scores that patients are judged by (see `patient_test`), from what an attacker sees."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from scipy.stats import norm

from forget_mi.attacks import Evidence, gaussian, linear_probe, margins, rmia
from forget_mi.evaluation.patient_null import Records
from forget_mi.evaluation.patient_test import PatientTest, judge_patients
from forget_mi.training import Predictions, Shadows, Tower

# The sides of an Evidence by what they are to the test.
ROLES = {"forget": ("forget",), "strangers": ("validation", "test"), "members": ("retain",)}


Sides = Mapping[str, np.ndarray]


def patient_tests(evidence: Evidence, *, level: float = 0.05, seed: int = 0) -> PatientTest:
    """`judge_patients` with D_f, with the patients of D_v and D_t as strangers, and with D_r as
    those who stay; by each of `scores_by_look`, the first of which counts in
    `PatientTest.found`."""
    scores = scores_by_look(evidence, seed)
    records = [
        Records(
            np.stack([found[role] for found in scores.values()]),
            _joined(evidence, role, "patients"),
            _joined(evidence, role, "labels"),
        )
        for role in ROLES
    ]
    return judge_patients(*records, list(scores), level=level, seed=seed)


def scores_by_look(evidence: Evidence, seed: int = 0) -> dict[str, Sides]:
    """By look ('lira (fused)'), the score of each record of the ROLES, higher meaning remembered:
    LiRA where there are shadow models and the margin where there are none, and the linear probe, of
    each tower and fused, fused first; and RMIA where there are shadow models."""
    towers, found = evidence.forget.towers, {}
    first = {"margin": margin_scores} if evidence.shadows is None else {"lira": lira_scores}
    for name, scores in first.items():
        found |= {f"{name} ({tower})": scores(evidence, tower) for tower in towers}
    if evidence.shadows is not None:
        found["rmia (fused)"] = rmia_scores(evidence, "fused")
    if _probe_applies(evidence):
        found |= {f"linear_probe ({t})": probe_scores(evidence, t, seed) for t in towers}
    return found


def margin_scores(evidence: Evidence, tower: Tower) -> Sides:
    """The margin of each record."""
    return {
        role: np.concatenate([margins(getattr(evidence, side), tower) for side in sides])
        for role, sides in ROLES.items()
    }


def lira_scores(evidence: Evidence, tower: Tower) -> Sides:
    """LiRA's log likelihood ratio of each record. The spreads are those over the records of all
    sides: taken over D_f alone, as an attack on D_f may do it, they would differ from the
    strangers' and mark a patient by their own few numbers."""
    sides = [side for names in ROLES.values() for side in names]
    shadows: list[Shadows] = [evidence.shadows[side] for side in sides]
    of_shadows = np.concatenate(
        [np.stack([margins(p, tower) for p in each.predictions]) for each in shadows], axis=1
    )
    masks = (
        np.concatenate([getattr(each, name) for each in shadows], axis=1)
        for name in ("member", "stranger")
    )
    m = np.concatenate([margins(getattr(evidence, side), tower) for side in sides])
    densities = [norm.logpdf(m, *gaussian(of_shadows, mask)) for mask in masks]
    return _by_role(evidence, densities[0] - densities[1])


def rmia_scores(evidence: Evidence, tower: Tower) -> Sides:
    """RMIA of each record, with all strangers as the population."""
    ratios = {
        role: np.concatenate(
            [rmia.ratio(getattr(evidence, s), evidence.shadows[s], tower) for s in sides]
        )
        for role, sides in ROLES.items()
    }
    return {role: rmia.share_passed(r, ratios["strangers"]) for role, r in ratios.items()}


def probe_scores(evidence: Evidence, tower: Tower, seed: int) -> Sides:
    """The linear probe of each record, in standard deviations of strangers. Those who stay and the
    strangers are cut in two by patient; a probe that learned from one half is asked about the
    other, and both about D_f, which takes the mean."""
    strangers, members = (_predictions(evidence, role) for role in ("strangers", "members"))
    cuts = [_half(side.patients, [seed, n, 73]) for n, side in enumerate((strangers, members))]
    found = {
        "forget": np.zeros(len(evidence.forget)),
        "strangers": np.empty(len(strangers)),
        "members": np.empty(len(members)),
    }
    for learn in (cuts, [~cut for cut in cuts]):
        probe = linear_probe.fit(members.select(learn[1]), strangers.select(learn[0]), tower)
        asked = {"strangers": ~learn[0], "members": ~learn[1]}
        scores = probe(strangers.select(asked["strangers"]))
        centre, spread = scores.mean(), max(float(scores.std()), 1e-12)
        found["strangers"][asked["strangers"]] = (scores - centre) / spread
        of_members = probe(members.select(asked["members"]))
        found["members"][asked["members"]] = (of_members - centre) / spread
        found["forget"] += (probe(evidence.forget) - centre) / spread / 2
    return found


def _probe_applies(evidence: Evidence) -> bool:
    """Whether each half of `probe_scores` can learn: of strangers and of those who stay there are
    enough patients, and of every label those who stay have several."""
    strangers, members = (_predictions(evidence, role) for role in ("strangers", "members"))
    if min(len(np.unique(side.patients)) for side in (strangers, members)) < 4:
        return False
    labels = np.unique(np.concatenate([strangers.labels, evidence.forget.labels]))
    counts = [len(np.unique(members.patients[members.labels == label])) for label in labels]
    return min(counts) >= 4


def _half(patients: np.ndarray, seed: list[int]) -> np.ndarray:
    """Which records (n) belong to one half of the patients."""
    unique, inverse = np.unique(patients, return_inverse=True)
    return (np.random.default_rng(seed).permutation(len(unique)) % 2 == 0)[inverse]


def _joined(evidence: Evidence, role: str, name: str) -> np.ndarray:
    return np.concatenate([getattr(getattr(evidence, side), name) for side in ROLES[role]])


def _predictions(evidence: Evidence, role: str) -> Predictions:
    return Predictions(*(_joined(evidence, role, n) for n in Predictions.__dataclass_fields__))


def _by_role(evidence: Evidence, values: np.ndarray) -> Sides:
    sizes = [sum(len(getattr(evidence, side)) for side in sides) for sides in ROLES.values()]
    parts = np.split(values, np.cumsum(sizes)[:-1])
    return dict(zip(ROLES, parts, strict=True))
