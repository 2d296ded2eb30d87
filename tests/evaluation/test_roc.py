import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from scipy.stats import permutation_test
from sklearn.metrics import roc_auc_score, roc_curve

from forget_mi.evaluation.permutation import label_shuffle_p, sign_flip_p
from forget_mi.evaluation.roc import Roc, by_patient, patient_draws, percentiles

SCORES = arrays.arrays(float, st.integers(2, 30), elements=st.integers(-4, 4).map(float))


@given(SCORES, SCORES)
def test_area_and_left_end_are_scikit_learns(members, strangers):
    truth = np.repeat([1, 0], [len(members), len(strangers)])
    scores = np.concatenate([members, strangers])
    roc = Roc(members, strangers)
    assert float(roc.auc()) == pytest.approx(roc_auc_score(truth, scores))
    fpr, tpr, _ = roc_curve(truth, scores, drop_intermediate=False)
    for allowed in (0.0, 0.1, 0.5, 1.0):
        assert float(roc.tpr_at_fpr(allowed)) == pytest.approx(tpr[fpr <= allowed + 1e-12].max())


@settings(max_examples=30)
@given(SCORES, SCORES, st.integers(0, 99))
def test_a_weight_counts_like_so_many_records(members, strangers, seed):
    rng = np.random.default_rng(seed)
    weights = [rng.integers(1, 4, len(side)) for side in (members, strangers)]
    repeated = Roc(
        *(np.repeat(side, w) for side, w in zip((members, strangers), weights, strict=True))
    )
    weighted = Roc(members, strangers)
    assert float(weighted.auc(*weights)) == pytest.approx(float(repeated.auc()))
    assert float(weighted.tpr_at_fpr(0.2, *weights)) == pytest.approx(
        float(repeated.tpr_at_fpr(0.2))
    )


def test_left_end_by_hand():
    strangers = np.arange(100.0)
    for fpr, members, expected in (
        (0.01, [98.5, 97.0, 99.5, 98.0], 0.5),  # one of a hundred strangers may be accused
        (0.0, [98.5], 0.0),
        (0.001, [99.5], 1.0),  # fewer than a thousand: none
    ):
        assert float(Roc(np.array(members), strangers).tpr_at_fpr(fpr)) == expected
    assert (
        float(Roc(np.ones(4), np.ones(10)).tpr_at_fpr(0.05)) == 0.0
    )  # ties count against the attacker


def test_many_draws_at_once_are_each_alone():
    rng = np.random.default_rng(0)
    members, strangers = rng.normal(1, 1, 20), rng.normal(0, 1, 30)
    draws = patient_draws(np.arange(20) // 2, 7, rng), patient_draws(np.arange(30) // 3, 7, rng)
    roc = Roc(members, strangers)
    together = roc.auc(*draws)
    assert together.shape == (7,)
    np.testing.assert_allclose(together, [roc.auc(a, b) for a, b in zip(*draws, strict=True)])


def test_no_weight_on_a_side_has_no_area():
    roc = Roc(np.array([1.0, 2.0]), np.array([0.0]))
    assert np.isnan(roc.auc(np.zeros(2), np.ones(1)))
    assert np.isnan(roc.tpr_at_fpr(0.1, np.ones(2), np.zeros(1)))


def test_whole_patients_are_drawn():
    patients = np.array([3, 3, 5, 9, 9, 9])
    draws = patient_draws(patients, 500, np.random.default_rng(1))
    assert (draws[:, 0] == draws[:, 1]).all()
    assert (draws[:, 3] == draws[:, 5]).all()
    assert (draws[:, [0, 2, 3]].sum(1) == 3).all()
    assert draws[:, 0].mean() == pytest.approx(1, abs=0.1)


def test_means_by_patient():
    values, who = by_patient(np.array([1.0, 3.0, 10.0]), np.array([7, 7, 2]))
    assert (values.tolist(), who.tolist()) == ([10.0, 2.0], [2, 7])


def test_percentiles_need_values():
    assert percentiles(np.arange(101.0), 0.9) == pytest.approx((5, 95))
    assert np.isnan(percentiles(np.array([1.0, np.nan, np.nan]), 0.9)).all()


def test_sign_flips_of_few_are_all_of_them_as_in_scipy():
    differences = np.array([0.4, 1.2, -0.3, 0.8, 0.9, 0.1, -0.2, 1.5])
    scipys = permutation_test(
        (differences,), np.mean, permutation_type="samples", n_resamples=np.inf
    ).pvalue
    assert sign_flip_p(differences) == pytest.approx(scipys)


def test_sign_flips_of_many_are_sampled():
    rng = np.random.default_rng(2)
    assert sign_flip_p(rng.normal(0, 1, 60) + 0.6) < 0.01
    assert sign_flip_p(rng.normal(0, 1, 60)) > 0.05
    assert np.isnan(sign_flip_p(np.array([])))


def test_a_shuffle_of_who_is_who_is_calibrated():
    rng = np.random.default_rng(3)
    null = [
        label_shuffle_p(rng.normal(size=12), rng.normal(size=20), shuffles=199, seed=k)
        for k in range(200)
    ]
    assert np.mean(np.array(null) <= 0.1) == pytest.approx(0.1, abs=0.06)
    assert label_shuffle_p(rng.normal(2, 1, 12), rng.normal(size=20), shuffles=199) <= 0.01


def test_shuffled_labels_agree_with_scipy_and_with_the_plain_loop():
    rng = np.random.default_rng(3)
    a, b = rng.integers(0, 4, 9).astype(float), rng.integers(1, 5, 14).astype(float)  # ties
    found = label_shuffle_p(a, b, shuffles=4000)
    assert np.isnan(label_shuffle_p(a[:0], b))
    assert np.isnan(label_shuffle_p(a, b[:0]))

    def difference(x, y, axis):
        return np.abs(x.mean(axis) - y.mean(axis))

    scipys = permutation_test(
        (a, b), difference, n_resamples=20_000, alternative="greater", vectorized=True, rng=0
    )
    assert found == pytest.approx(scipys.pvalue, abs=0.02)
    draws, together = np.random.default_rng([0, 43]), np.concatenate([a, b])
    mixed = [draws.permutation(together) for _ in range(4000)]
    as_far = sum(
        abs(x[:9].mean() - x[9:].mean()) >= abs(a.mean() - b.mean()) - 1e-12 for x in mixed
    )
    assert found == (1 + as_far) / 4001
