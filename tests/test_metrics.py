from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import softmax as scipy_softmax
from sklearn.metrics import f1_score, roc_auc_score

from forget_mi.evaluation.measures import Measure, logit_cosine_distance
from forget_mi.metrics import binary_auc, macro_f1, mean_auc
from forget_mi.training import prediction as metrics
from forget_mi.training.prediction import Predictions, predict


def predictions(image, text, labels, patients=None) -> Predictions:
    image, text = np.asarray(image, np.float32), np.asarray(text, np.float32)
    labels = np.asarray(labels)
    patients = np.arange(len(labels)) if patients is None else np.asarray(patients)
    return Predictions(image, text, image, text, labels, patients)


@given(
    st.lists(st.integers(0, 5), min_size=1, max_size=30),
    st.lists(st.integers(0, 5), min_size=1, max_size=30),
)
def test_binary_auc_equals_scikit_learn(positives, negatives):
    truth = [1] * len(positives) + [0] * len(negatives)
    expected = roc_auc_score(truth, positives + negatives)
    assert binary_auc(np.array(positives), np.array(negatives)) == pytest.approx(expected)


@given(st.integers(0, 10_000), st.integers(5, 60))
def test_auc_and_f1_equal_scikit_learn(seed, n):
    rng = np.random.default_rng(seed)
    labels, probabilities = rng.integers(0, 4, n), rng.dirichlet(np.ones(4), n)
    present = np.unique(labels)
    f1 = f1_score(labels, probabilities.argmax(1), labels=present, average="macro", zero_division=0)
    assert macro_f1(labels, probabilities) == pytest.approx(f1)
    if len(present) > 1:
        auc = np.mean([roc_auc_score(labels == c, probabilities[:, c]) for c in present])
        assert mean_auc(labels, probabilities) == pytest.approx(auc)


def test_auc_of_a_single_class_is_undefined():
    assert np.isnan(mean_auc(np.array([1, 1]), np.eye(4)[:2]))


def test_fused_prediction_and_cross_entropy_by_hand():
    p = predictions([[0.0, 0.0]], [[np.log(3.0), 0.0]], [0])
    assert p.probabilities("image").tolist() == [[0.5, 0.5]]
    np.testing.assert_allclose(p.probabilities("text"), [[0.75, 0.25]])
    np.testing.assert_allclose(p.probabilities("fused"), [[0.625, 0.375]])
    np.testing.assert_allclose(p.cross_entropy("fused"), [-np.log(0.625)])
    logits = np.random.default_rng(0).normal(size=(6, 4))
    np.testing.assert_allclose(
        predictions(logits, logits, [0] * 6).probabilities("image"),
        scipy_softmax(logits, 1),
        rtol=1e-6,
    )


def test_memorised_records_keep_distinct_losses():
    # In float32 both would be log(1) = 0, and an attacker would be fooled by rounding.
    losses = predictions(
        [[20.0, 0.0], [30.0, 0.0]], [[20.0, 0.0], [30.0, 0.0]], [0, 0]
    ).cross_entropy("fused")
    assert 0 < losses[1] < losses[0]


def test_cosine_distance_by_hand():
    a = predictions([[1.0, 0.0]], [[0.0, 0.0]], [0])
    b = predictions([[0.0, 2.0]], [[0.0, 0.0]], [0])
    assert logit_cosine_distance(a, a) == pytest.approx(0)
    assert logit_cosine_distance(a, b) == pytest.approx(1)


def test_intervals_draw_whole_patients():
    # Two patients, one all 0 and one all 1: a draw of two patients gives a mean of 0, .5 or 1 and
    # nothing between.
    values, patients = np.repeat([0.0, 1.0], 50), np.repeat([7, 9], 50)
    seen = set()

    def mean(x):
        seen.add(float(x.mean()))
        return x.mean()

    low, high = Measure("m", mean, {"forget": (values,)}).interval(
        {"forget": patients}, draws=200, level=0.95, seed=0
    )
    assert seen == {0.0, 0.5, 1.0}
    assert (low, high) == (0, 1)


def test_interval_of_independent_records_agrees_with_theory():
    values = np.random.default_rng(0).normal(size=400)
    measure = Measure("m", np.mean, {"test": (values,)})
    low, high = measure.interval({"test": np.arange(400)}, draws=2000, level=0.95, seed=1)
    half = 1.96 * values.std() / 20
    assert (low, high) == pytest.approx((values.mean() - half, values.mean() + half), abs=0.015)


def test_one_patient_has_no_interval():
    measure = Measure("m", np.mean, {"forget": (np.ones(5),)})
    assert np.isnan(measure.interval({"forget": np.zeros(5)}, draws=50, level=0.95, seed=0)).all()


def test_measure_takes_all_sets_in_order():
    measure = Measure(
        "auc", binary_auc, {"forget": (np.array([2.0, 3.0]),), "test": (np.array([1.0, 0.0]),)}
    )
    assert measure.value() == 1.0


@pytest.mark.parametrize(
    ("pixels", "on_cpu", "on_cuda"),
    [(64, 128, 128), (256, 16, 128), (512, 4, 64), (2048, 1, 4), (8192, 1, 1), (0, 128, 128)],
)
def test_an_evaluation_batch_takes_fewer_large_images(unlearning_data, pixels, on_cpu, on_cuda):
    large = replace(
        unlearning_data.forget, images=np.broadcast_to(np.uint8(0), (1, 1, pixels, pixels))
    )
    assert metrics.evaluation_batch_size(large, torch.device("cpu")) == on_cpu
    assert metrics.evaluation_batch_size(large, torch.device("cuda")) == on_cuda


def test_evaluation_in_small_batches_says_the_same(
    original, unlearning_data, accelerator, monkeypatch
):
    whole = predict(original[0], unlearning_data.retain, accelerator)
    monkeypatch.setitem(metrics.MAX_PIXELS, "cpu", 3 * 32 * 32)
    assert metrics.evaluation_batch_size(unlearning_data.retain, accelerator.device) == 3
    assert len(unlearning_data.retain) % 3  # the last batch is smaller
    in_parts = predict(original[0], unlearning_data.retain, accelerator)
    for name in ("image_logits", "text_logits", "image_embedding", "text_embedding"):
        np.testing.assert_allclose(
            getattr(in_parts, name), getattr(whole, name), rtol=1e-4, atol=1e-5
        )
