"""Each attack against a case whose answer is known, or another library's."""

import numpy as np
import pytest
from scipy.stats import norm
from sklearn.metrics import roc_auc_score
from sklearn.svm import SVC

from forget_mi.attacks import ATTACKS, RELATIVE, available_attacks
from forget_mi.attacks.base import Evidence, Scores, margins
from forget_mi.attacks.lira import likelihood_ratio
from forget_mi.attacks.lira_offline import surprise
from forget_mi.attacks.modified_entropy import modified_entropy
from forget_mi.attacks.rmia import GAMMA, ratio, share_passed
from forget_mi.attacks.svc import member_calls
from forget_mi.evaluation.attack_rates import (
    STRONGEST,
    Patients,
    all_scores,
    attack_table,
    patients_of,
)
from forget_mi.evaluation.roc import Roc
from forget_mi.metrics import binary_auc
from forget_mi.models.joint_embedding import JointEmbedding
from forget_mi.training.prediction import TOWERS, Predictions
from forget_mi.training.shadows import Shadows

WIDTH = 6


def with_margins(values, patients=None, rng=None) -> Predictions:
    """Predictions of three classes whose margin in both towers is as given; embeddings say the
    margin too, with noise; the label is 0."""
    m = np.asarray(values, float)
    n = len(m)
    rng = rng or np.random.default_rng(5)
    logits = np.stack([m, np.full(n, -np.log(2)), np.full(n, -np.log(2))], 1).astype(np.float32)
    z = rng.normal(size=(n, WIDTH)).astype(np.float32)
    z[:, 0] += m
    labels = np.zeros(n, int)
    return Predictions(
        logits, logits, z, z, labels, np.arange(n) if patients is None else np.asarray(patients)
    )


def shadows_of(n: int, difficulty, rng, models: int = 16, gain: float = 6.0) -> Shadows:
    """Shadow models of n records with a difficulty each: margins lie around it, and `gain` above
    for members."""
    halves = np.stack([rng.permutation(n) % 2 == 0 for _ in range(models // 2)])
    member = np.stack([h for half in halves for h in (half, ~half)])
    found = [with_margins(difficulty + gain * m + rng.normal(size=n), rng=rng) for m in member]
    return Shadows(found, member, ~member)


def make_evidence(kind: str, rng, sizes=(120, 300, 120, 240), gain: float = 6.0) -> Evidence:
    """Evidence of a model that saw D_f (kind 'member') or did not ('stranger'); difficulties differ
    from record to record, five records a patient in D_f and D_t."""
    difficulty = [rng.normal(0, 3, n) for n in sizes]
    knows = (kind == "member", True, False, False)
    sets = [
        with_margins(d + gain * k + rng.normal(size=len(d)), np.arange(len(d)) // 5, rng)
        for d, k in zip(difficulty, knows, strict=True)
    ]
    names = ("forget", "retain", "validation", "test")
    shadows = {
        n: shadows_of(len(d), d, rng, gain=gain) for n, d in zip(names, difficulty, strict=True)
    }
    original = {
        "forget": with_margins(difficulty[0] + gain, rng=rng),
        "test": with_margins(difficulty[3], rng=rng),
    }
    return Evidence(
        *sets,
        shadows=shadows,
        unlearned=shadows,
        original=original,
        joint=JointEmbedding(WIDTH, seed=0),
    )


@pytest.fixture(scope="module")
def seen():
    return make_evidence("member", np.random.default_rng(0))


@pytest.fixture(scope="module")
def mean_unseen_margin():
    return make_evidence("stranger", np.random.default_rng(1), sizes=(800, 900, 800, 800))


@pytest.mark.parametrize("tower", TOWERS)
@pytest.mark.parametrize("name", list(ATTACKS))
def test_a_model_that_certainly_saw_the_patients_is_caught(seen, name, tower):
    forget, test = ATTACKS[name](seen, tower)
    assert (len(forget), len(test)) == (120, 240)
    # Without the record's own difficulty an attack can only be so good: 6 against a spread of
    # sqrt(2) x 3.
    assert binary_auc(forget, test) > (0.98 if name in ("lira", "lira_offline", "u_lira") else 0.85)


@pytest.mark.parametrize("tower", TOWERS)
@pytest.mark.parametrize("name", list(ATTACKS))
def test_a_model_that_never_saw_them_is_not(mean_unseen_margin, name, tower):
    assert binary_auc(*ATTACKS[name](mean_unseen_margin, tower)) == pytest.approx(0.5, abs=0.06)


def test_attacks_that_know_each_records_difficulty_are_stronger(seen):
    found = {name: Roc(*ATTACKS[name](seen, "fused")) for name in ("loss", "lira", "rmia")}
    assert found["lira"].auc() > found["loss"].auc() + 0.03
    assert found["rmia"].tpr_at_fpr(0.01) > found["loss"].tpr_at_fpr(0.01) + 0.1
    assert found["lira"].tpr_at_fpr(0.01) > found["loss"].tpr_at_fpr(0.01) + 0.3


def test_an_attack_without_its_evidence_is_left_out(seen):
    bare = Evidence(seen.forget, seen.retain, seen.validation, seen.test)
    assert set(ATTACKS) | set(RELATIVE) == set(available_attacks(seen))
    assert set(available_attacks(seen)) - set(available_attacks(bare)) == {
        "lira",
        "lira_offline",
        "rmia",
        "u_lira",
        "embedding_shift",
    }
    assert {name for name, _ in all_scores(bare)} == set(available_attacks(bare))


# ---- formulas ------------------------------------------------------------------------------------


def test_margin_is_log_p_over_one_minus_p():
    rng = np.random.default_rng(2)
    image, text = rng.normal(size=(2, 30, 4)).astype(np.float32) * 3
    labels = rng.integers(4, size=30)
    p = Predictions(image, text, image, text, labels, labels)
    for tower in TOWERS:
        right = p.probabilities(tower)[np.arange(30), labels]
        np.testing.assert_allclose(margins(p, tower), np.log(right) - np.log1p(-right), rtol=1e-6)


def test_margin_of_a_record_learned_by_heart_is_finite():
    logits = np.array([[90.0, -90.0]], np.float32)
    p = Predictions(logits, logits, logits, logits, np.array([0]), np.array([0]))
    assert [float(margins(p, tower)[0]) for tower in TOWERS] == [180.0] * 3


def test_modified_entropy_by_hand():
    p = np.array([[0.7, 0.2, 0.1], [0.1, 0.1, 0.8]])
    found = modified_entropy(
        Predictions(*[np.log(p).astype(np.float32)] * 4, np.array([0, 0]), np.arange(2)), "fused"
    )
    by_hand = [
        -(0.3 * np.log(0.7) + 0.2 * np.log(0.8) + 0.1 * np.log(0.9)),
        -(0.9 * np.log(0.1) + 0.1 * np.log(0.9) + 0.8 * np.log(0.2)),
    ]
    np.testing.assert_allclose(found, by_hand, rtol=1e-5)


def test_lira_by_hand():
    values = np.array([[5.0, 1.0], [7.0, -1.0], [1.0, 6.0], [-1.0, 8.0]])
    member = np.array([[True, False], [True, False], [False, True], [False, True]])
    shadows = Shadows([with_margins(v) for v in values], member, ~member)
    target = with_margins([4.0, 0.5])
    # Means in: 6, 7; out: 0, 0. Each record has two deviations of 1 a side and one degree of
    # freedom: spread sqrt(2).
    expected = [
        norm.logpdf(m, inside, 2**0.5) - norm.logpdf(m, 0, 2**0.5)
        for m, inside in ((4.0, 6), (0.5, 7))
    ]
    np.testing.assert_allclose(likelihood_ratio(target, shadows, "text"), expected, rtol=1e-5)
    np.testing.assert_allclose(
        surprise(target, shadows, "text"), np.array([4.0, 0.5]) / 2**0.5, rtol=1e-5
    )


def test_lira_of_a_record_that_no_shadow_model_knows_uses_the_others_mean():
    values = np.array([[5.0, 0.0], [7.0, 0.0], [0.0, 0.0], [0.0, 0.0]])
    member = np.array([[True, False], [True, False], [False, False], [False, False]])
    shadows = Shadows([with_margins(v) for v in values], member, ~member)
    known, unknown = likelihood_ratio(with_margins([6.0, 6.0]), shadows, "text")
    assert known == pytest.approx(unknown)


def test_rmia_by_hand():
    member = np.array([[True], [False]])
    p = np.array([0.9, 0.3])
    shadows = Shadows([with_margins([np.log(q / (1 - q))]) for q in p], member, ~member)
    found = ratio(with_margins([np.log(0.8 / 0.2)]), shadows, "image")
    np.testing.assert_allclose(found, [0.8 / 0.6], rtol=1e-5)
    population = np.array([0.2, 0.4, 0.6, 1.0])
    passed = share_passed(np.array([0.79, 1.3, 3.0]), population)
    exact = [(r >= GAMMA * population).mean() for r in (0.79, 1.3, 3.0)]
    assert ((passed >= exact) & (passed < np.array(exact) + 0.25 / 2)).all()
    assert (np.diff(passed) > 0).all()


def test_svc_is_the_papers(seen):
    x = np.concatenate(
        [seen.retain.cross_entropy("image"), seen.test.cross_entropy("image")]
    ).reshape(-1, 1)
    classifier = SVC(C=3, gamma="auto", kernel="rbf").fit(x, [1] * 300 + [0] * 240)
    expected = classifier.predict(seen.forget.cross_entropy("image").reshape(-1, 1))
    assert (member_calls(seen, "image") == expected).all()
    assert ((RELATIVE["svc"](seen, "image").forget > 0) == expected).all()


def test_embedding_shift_is_nothing_where_nothing_moved(seen):
    still = Evidence(
        *(getattr(seen, s) for s in ("forget", "retain", "validation", "test")),
        original={"forget": seen.forget, "test": seen.test},
        joint=seen.joint,
    )
    assert all(not RELATIVE["embedding_shift"](still, tower).forget.any() for tower in TOWERS)
    moved = RELATIVE["embedding_shift"](seen, "image").forget
    distance = np.linalg.norm(
        seen.forget.image_embedding - seen.original["forget"].image_embedding, axis=1
    )
    np.testing.assert_allclose(-moved, distance, rtol=1e-5)


# ---- tables --------------------------------------------------------------------------------------


def table_of(evidence, **changes):
    settings = {"draws": 200, "level": 0.95, "seed": 0} | changes
    return attack_table(all_scores(evidence), patients_of(evidence), **settings)


def test_the_table_has_every_attack_by_record_and_by_patient(seen):
    table = table_of(seen)
    assert set(table.level) == {"sample", "patient"}
    assert len(table) == 2 * (3 * (len(ATTACKS) + len(RELATIVE)) + 1)
    row = table[
        (table.attack == "loss") & (table.tower == "text") & (table.level == "sample")
    ].iloc[0]
    truth = np.repeat([1, 0], [120, 240])
    losses = np.concatenate([seen.forget.cross_entropy("text"), seen.test.cross_entropy("text")])
    assert row.auc == pytest.approx(roc_auc_score(truth, -losses))
    assert row.auc_low < row.auc < row.auc_high
    by_patient = table[table.attack == "lira"].set_index(["tower", "level"]).auc
    assert by_patient["fused", "patient"] >= by_patient["fused", "sample"] - 0.01


def test_the_strongest_attack_is_judged_on_patients_it_was_not_chosen_on():
    patients = Patients(np.arange(60) // 3, np.arange(60) // 3)
    best, fitted = [], []
    for seed in range(20):
        # Attacks that know nothing: the best of them looks good each time, the cross-fitted one
        # must not on average.
        rng = np.random.default_rng(seed)
        scores = {
            (name, str(k)): Scores(*rng.normal(size=(2, 60))) for name in ATTACKS for k in range(4)
        }
        table = attack_table(scores, patients, draws=50, level=0.95, seed=0)
        table = table[table.level == "sample"].set_index("attack")
        best.append(table.auc.drop(STRONGEST).max())
        fitted.append(table.auc[STRONGEST])
    assert np.mean(best) > 0.58
    assert np.mean(fitted) == pytest.approx(0.5, abs=0.03)


def test_too_few_patients_get_no_interval_and_no_strongest_attack(seen):
    few = np.arange(120) // 20  # six patients
    evidence = Evidence(with_patients(seen.forget, few), seen.retain, seen.validation, seen.test)
    table = table_of(evidence)
    assert table.auc.notna().all()
    assert table[["auc_low", "auc_high", "tpr_at_1pct_fpr_low"]].isna().all().all()
    assert STRONGEST not in set(table.attack)


def test_a_forget_set_of_one_patient_has_numbers_and_no_interval(seen):
    evidence = Evidence(
        with_patients(seen.forget, np.zeros(120, int)), seen.retain, seen.validation, seen.test
    )
    table = table_of(evidence)
    one = table[(table.level == "patient") & (table.attack == "loss")]
    assert one.auc.between(0, 1).all()
    assert one.auc_low.isna().all()


def with_patients(p: Predictions, patients) -> Predictions:
    arrays = [getattr(p, name) for name in p.__dataclass_fields__]
    return Predictions(*arrays[:-1], np.asarray(patients))
