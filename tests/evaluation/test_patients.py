"""The test of one patient: p-values against small cases and by other ways, verdicts, refusals."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from forget_mi.errors import InputError
from forget_mi.evaluation.p_values import TAIL, hommel, shuffled_p, upper_p
from forget_mi.evaluation.patient_null import Records
from forget_mi.evaluation.patient_test import (
    COULD_NOT,
    FOUND,
    NOT_TOLD,
    PUSHED,
    judge_patients,
    strangers_needed,
)

LOOKS = ("lira (fused)", "lira (image)", "linear_probe (fused)")


def people(scores, first=0, label=0):
    """Records of patients numbered from `first`; scores: of each patient, (looks, records)."""
    counts = [each.shape[1] for each in scores]
    patients = np.repeat(first + np.arange(len(scores)), counts)
    return Records(np.concatenate(scores, 1), patients, np.full(len(patients), label))


def drawn(rng, count, first, shift=0.0, records=3, looks=3, label=0):
    """Patients whose scores are normal, with a part that all of a patient's records share."""
    return people(
        [
            rng.normal(size=(looks, 1)) + rng.normal(size=(looks, records)) + shift
            for _ in range(count)
        ],
        first,
        label,
    )


def test_p_is_a_count_where_there_are_strangers_to_count():
    null = np.arange(1.0, 20.0)[None]  # 19 strangers
    assert upper_p(np.array([10.0]), null)[0] == pytest.approx((1 + 10) / 20)
    assert upper_p(np.array([0.0]), null)[0] == 1.0
    assert upper_p(np.array([18.0]), null)[0] == pytest.approx((1 + 2) / 20)


def test_a_stranger_among_the_others_is_not_its_own_rival():
    null = np.arange(1.0, 20.0)[None]
    p = upper_p(null, null, among_others=True)
    assert p[0, 9] == pytest.approx((1 + 9) / 19)  # nine of the other eighteen are larger
    assert p[0, 0] == 1.0
    assert upper_p(null, null)[0, 9] == pytest.approx((1 + 10) / 20)


def test_the_tail_is_the_chance_of_one_more_exponential_excess():
    rng = np.random.default_rng(0)
    null = rng.exponential(size=(1, 200))
    t = np.sort(null[0])[int(np.ceil(TAIL * 200))]
    excess = null[0][null[0] > t] - t
    # Of a gamma posterior of the rate (Jeffreys' 1 / rate), by simulation.
    rates = rng.gamma(20, 1 / (20 * excess.mean()), 200_000)
    at_t = (1 + len(excess)) / 201
    expected = at_t * np.exp(-rates * 2.0).mean()
    assert upper_p(np.array([t + 2.0]), null)[0] == pytest.approx(expected, rel=0.02)


@given(st.integers(0, 10_000))
@settings(max_examples=30, deadline=None)
def test_p_falls_as_scores_rise_and_is_never_zero(seed):
    rng = np.random.default_rng(seed)
    null = rng.standard_t(2, size=(3, rng.integers(1, 60)))
    values = np.sort(rng.normal(0, 20, 50))
    p = upper_p(values, null)
    assert (np.diff(p) <= 1e-12).all()
    assert (p > 0).all()
    assert (p <= 1).all()


def closed_test(p):
    """Hommel's adjusted p-values by their definition: the largest of Simes' p-values over all sets
    that a hypothesis is in."""
    found = np.zeros(len(p))
    for size in range(1, len(p) + 1):
        for chosen in itertools.combinations(range(len(p)), size):
            ordered = np.sort(p[list(chosen)])
            simes = (size * ordered / np.arange(1, size + 1)).min()
            found[list(chosen)] = np.maximum(found[list(chosen)], simes)
    return np.minimum(found, 1)


@given(st.lists(st.sampled_from([0.001, 0.01, 0.02, 0.04, 0.3, 0.9, 1.0]), min_size=1, max_size=7))
@settings(max_examples=60, deadline=None)
def test_hommel_is_the_closed_test(values):
    p = np.array(values)
    np.testing.assert_allclose(hommel(p), closed_test(p))


def test_hommel_leaves_out_what_is_not_there():
    np.testing.assert_allclose(hommel(np.array([np.nan, 0.01, 0.04])), [np.nan, 0.02, 0.04])


def test_shuffles_find_a_difference_and_no_other():
    rng = np.random.default_rng(0)
    assert shuffled_p(rng.normal(2, 1, 20), rng.normal(size=60), 0) < 0.01
    assert shuffled_p(rng.normal(-2, 1, 20), rng.normal(size=60), 0) > 0.9


def test_under_a_model_that_never_saw_them_p_values_are_uniform():
    rng = np.random.default_rng(1)
    p, over_looks, verdicts = [], [], []
    for _ in range(300):
        found = judge_patients(
            drawn(rng, 1, 0, records=int(rng.integers(1, 5))), drawn(rng, 60, 1000),
            drawn(rng, 40, 5000, 4), LOOKS,
        )  # fmt: skip
        p.append(found.patients.p[0])
        over_looks.append(found.patients.p_remembered[0])
        verdicts.append(found.patients.verdict[0])
    for values in (p, over_looks):
        assert 0.02 <= np.mean(np.array(values) <= 0.05) <= 0.09
        assert np.mean(np.array(values) <= 0.5) == pytest.approx(0.5, abs=0.12)
    assert np.mean([v != NOT_TOLD for v in verdicts]) <= 0.09


def test_one_patient_who_is_remembered_is_found_and_one_who_was_pushed_is_too():
    rng = np.random.default_rng(2)
    null, stay = drawn(rng, 80, 1000), drawn(rng, 60, 5000, 5)
    found = judge_patients(drawn(rng, 1, 0, 8), null, stay, LOOKS)
    assert (found.patients.verdict[0], found.verdict) == (FOUND, FOUND)
    assert set(found.patients.looks[0].split(", ")) <= set(LOOKS)
    assert found.found(0.05)["value"] == 1
    assert found.found(0.05)["power"] > 0.9
    assert judge_patients(drawn(rng, 1, 0, -6), null, stay, LOOKS).verdict == PUSHED
    stranger = judge_patients(drawn(rng, 1, 0), null, stay, LOOKS)
    assert stranger.verdict == NOT_TOLD
    assert "not told from a stranger, by a test that finds 1" in stranger.in_words()


def test_one_of_twenty_is_named_though_the_average_is_a_strangers():
    rng = np.random.default_rng(3)
    request = drawn(rng, 20, 0)
    request.scores[:, request.patients == 7] += 12
    found = judge_patients(request, drawn(rng, 120, 1000), drawn(rng, 60, 5000, 5), LOOKS)
    assert found.patients.patient[0] == 7
    assert found.patients.verdict[0] == FOUND
    assert (found.patients.verdict[1:] != FOUND).all()
    assert found.verdict == FOUND
    assert "1 of 20 still found" in found.in_words()


def test_who_is_found_by_one_look_alone_is_named_with_it():
    rng = np.random.default_rng(4)
    request = drawn(rng, 2, 0)
    request.scores[2, request.patients == 1] += 8
    found = judge_patients(request, drawn(rng, 120, 1000), drawn(rng, 60, 5000, 5), LOOKS)
    row = found.patients.set_index("patient").loc[1]
    assert (row.verdict, row.looks) == (FOUND, LOOKS[2])


def test_a_request_is_found_together_where_no_patient_is_found_alone():
    rng = np.random.default_rng(5)
    found = judge_patients(
        drawn(rng, 24, 0, 1.2), drawn(rng, 100, 1000), drawn(rng, 60, 5000, 1.2), LOOKS
    )
    assert found.p_request["remembered"] < 0.0125
    assert found.verdict == FOUND
    assert "all together still found" in found.in_words()


def test_scores_are_compared_within_a_class():
    """An easy class scores higher, for strangers as well."""
    rng = np.random.default_rng(6)
    easy, hard = drawn(rng, 60, 1000, 6, label=0), drawn(rng, 60, 2000, 0, label=1)
    null = Records(*(np.concatenate(both, -1) for both in zip(easy, hard, strict=True)))
    found = judge_patients(drawn(rng, 1, 0, 6, label=0), null, drawn(rng, 50, 5000, 12), LOOKS)
    assert found.verdict == NOT_TOLD
    found = judge_patients(drawn(rng, 1, 0, 6, label=1), null, drawn(rng, 50, 5000, 12), LOOKS)
    assert found.verdict == FOUND


@pytest.mark.parametrize("records", [1, 40])
def test_patients_of_one_record_and_of_forty_are_judged(records):
    rng = np.random.default_rng(records)
    null, stay = drawn(rng, 80, 1000), drawn(rng, 60, 5000, 9)
    strange = judge_patients(drawn(rng, 1, 0, records=records), null, stay, LOOKS)
    known = judge_patients(drawn(rng, 1, 0, 9, records=records), null, stay, LOOKS)
    assert (strange.verdict, known.verdict) == (NOT_TOLD, FOUND)


@pytest.mark.parametrize(
    ("strangers", "reason"),
    [(0, "no strangers; 1 patient needs 20"), (1, "1 stranger; 1 p"), (15, "15 strangers; 1")],
)
def test_too_few_strangers_give_no_p_value(strangers, reason):
    rng = np.random.default_rng(7)
    null = (
        drawn(rng, strangers, 1000) if strangers else drawn(rng, 1, 1000).where(np.zeros(3, bool))
    )
    found = judge_patients(drawn(rng, 1, 0, 9), null, drawn(rng, 50, 5000, 9), LOOKS)
    assert found.verdict == COULD_NOT
    assert np.isnan(found.patients.p_remembered[0])
    assert np.isnan(found.found(0.05)["value"])
    if strangers >= 5:
        assert reason in found.in_words()


def test_strangers_of_other_classes_give_no_p_value():
    rng = np.random.default_rng(8)
    found = judge_patients(
        drawn(rng, 1, 0, 9, label=3), drawn(rng, 80, 1000), drawn(rng, 50, 5000, 9), LOOKS
    )
    assert (found.verdict, np.isnan(found.patients.p[0])) == (COULD_NOT, True)
    assert "fewer than 5 strangers have a record of the patient's class" in found.in_words()


def test_a_model_that_gives_everybody_one_answer_could_not_have_told():
    rng = np.random.default_rng(9)
    sides = (drawn(rng, 2, 0), drawn(rng, 80, 1000), drawn(rng, 50, 5000))
    found = judge_patients(*(s._replace(scores=0 * s.scores) for s in sides), LOOKS)
    assert found.verdict == COULD_NOT
    assert "it finds 0 % of those who stay" in found.in_words()
    assert (found.patients.p_remembered == 1).all()


def test_a_large_request_to_few_strangers_says_how_many_it_needs():
    rng = np.random.default_rng(10)
    found = judge_patients(drawn(rng, 90, 0), drawn(rng, 25, 1000), drawn(rng, 50, 5000, 5), LOOKS)
    assert (found.patients.verdict == COULD_NOT).all()
    assert found.patients.p.notna().all()
    assert f"need {strangers_needed(90, 0.05)} at level 0.05" in found.patients.reason[0]


def test_nan_and_a_patient_on_two_sides_are_refused():
    rng = np.random.default_rng(11)
    one, null, stay = drawn(rng, 1, 0), drawn(rng, 80, 1000), drawn(rng, 50, 5000)
    broken = null._replace(scores=np.where(null.scores > 2, np.nan, null.scores))
    with pytest.raises(InputError, match=r"scores of lira \(fused\): \d+ of 240 records of strang"):
        judge_patients(one, broken, stay, LOOKS)
    with pytest.raises(InputError, match="patient 1000 is among strangers and among those who"):
        judge_patients(one, null, drawn(rng, 50, 1000), LOOKS)
    with pytest.raises(InputError, match="patient 0 is among the forgotten patients and among"):
        judge_patients(one, drawn(rng, 80, 0), stay, LOOKS)
