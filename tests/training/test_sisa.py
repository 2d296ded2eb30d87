"""SISA: shards and slices, and what a request retrains."""

import numpy as np
import pytest
from conftest import TINY_MODEL, differs
from hypothesis import given, settings
from hypothesis import strategies as st

from forget_mi.data.cohort import rows_of
from forget_mi.errors import InputError
from forget_mi.training.config import TrainingConfig
from forget_mi.training.prediction import Predictions
from forget_mi.training.sisa import (
    Sisa,
    SisaConfig,
    assign_slices,
    averaged,
    epochs_a_stage,
    expected_share,
)

TRAINING = TrainingConfig(epochs=3, batch_size=8)


@pytest.fixture(scope="module")
def places(cohort):
    return assign_slices(cohort, SisaConfig(shards=2, slices=3))


def sisa(cohort, places, folder) -> Sisa:
    how = SisaConfig(shards=2, slices=3)
    return Sisa(folder, cohort, TINY_MODEL, TRAINING, how, places, seed=5)


@pytest.fixture(scope="module")
def whole(cohort, places, tmp_path_factory):
    from forget_mi.training.config import DeviceConfig
    from forget_mi.training.devices import make_accelerator

    made = sisa(cohort, places, tmp_path_factory.mktemp("sisa"))
    accelerator = make_accelerator(DeviceConfig(device="cpu"))
    return made, made.train(accelerator, progress=False)


@settings(deadline=None, max_examples=20)
@given(shards=st.integers(1, 3), slices=st.integers(1, 3), seed=st.integers(0, 5))
def test_each_patient_is_in_one_place_and_each_shard_knows_each_class(cohort, shards, slices, seed):
    found = assign_slices(cohort, SisaConfig(shards=shards, slices=slices, seed=seed))
    train = cohort.table.iloc[rows_of(cohort, "train")]
    assert sorted(found.patient_id) == sorted(train.patient_id.unique())
    assert found.shard.between(0, shards - 1).all()
    assert found.slice.between(0, slices - 1).all()
    sizes = found.groupby("shard").size()
    assert sizes.max() - sizes.min() <= len(cohort.classes)
    label = train.groupby("patient_id").label.agg(lambda x: x.mode().iloc[0])
    by_shard = found.assign(label=label.loc[found.patient_id].to_numpy()).groupby("shard").label
    assert (by_shard.nunique() == label.nunique()).all()


def test_those_who_are_likely_to_ask_are_together_and_late(cohort):
    patients = cohort.table.patient_id.iloc[rows_of(cohort, "train")].unique()
    risk = {patient: float(i) for i, patient in enumerate(patients)}
    how = SisaConfig(shards=2, slices=2, assignment="risk")
    found = assign_slices(cohort, how, risk)
    mean = found.assign(risk=found.patient_id.map(risk)).groupby(["shard", "slice"]).risk.mean()
    assert mean.is_monotonic_increasing
    with pytest.raises(InputError, match=r"sisa\.assignment = 'risk': 1 training patients have no"):
        assign_slices(cohort, how, dict(list(risk.items())[1:]))


def test_more_shards_than_patients_of_a_class_are_refused(cohort):
    with pytest.raises(InputError, match=r"sisa\.shards = 50: class .* each shard needs one"):
        assign_slices(cohort, SisaConfig(shards=50))


def test_all_stages_take_as_many_records_as_the_epochs_would():
    assert epochs_a_stage(30, 1) == 30
    assert epochs_a_stage(30, 4) == 12
    assert sum(12 * i / 4 for i in range(1, 5)) == 30
    assert epochs_a_stage(1, 9) == 1


@pytest.mark.parametrize("place", [(0, 0), (1, 1), (1, 2)])
def test_after_a_request_no_weight_depends_on_the_forgotten(
    place, whole, cohort, places, accelerator, tmp_path
):
    """Served from the kept slices, and trained anew without them: the same bits."""
    import shutil

    made, everything = whole
    shutil.copytree(made.folder, tmp_path / "served")
    served = sisa(cohort, places, tmp_path / "served")
    here = places[(places.shard == place[0]) & (places.slice == place[1])]
    gone = {here.patient_id.iloc[0]}
    work = served.train(accelerator, without=gone, progress=False)
    assert 0 < work < everything
    anew = sisa(cohort, places, tmp_path / "anew")
    anew.train(accelerator, without=gone, progress=False)
    for number, (a, b, before) in enumerate(
        zip(served.models(), anew.models(), made.models(), strict=True)
    ):
        assert not differs(a.model.state_dict(), b.model.state_dict())
        touched = number == place[0]
        if a.tokenizer.get_vocab() == before.tokenizer.get_vocab():
            assert differs(a.model.state_dict(), before.model.state_dict()) == touched
        else:
            assert touched
    # Served once more, nothing is left to do.
    assert served.train(accelerator, without=gone, progress=False) == 0


def test_work_is_counted_by_hand(whole, places, cohort):
    _, work = whole
    train = cohort.table.iloc[rows_of(cohort, "train")]
    by_place = train.merge(places, on="patient_id")
    expected = sum(2 * (by_place.slice <= stage).sum() for stage in range(3))
    assert epochs_a_stage(3, 3) == 2
    assert work == expected == whole[0].work()


def test_a_patient_of_no_shard_is_refused(whole, accelerator):
    with pytest.raises(InputError, match="1 patients of the request are in no shard"):
        whole[0].train(accelerator, without={"nobody"}, progress=False)


def test_answers_are_averaged(whole, cohort, accelerator):
    rows = rows_of(cohort, "test")[:4]
    each = [whole[0]._answers(m, rows, accelerator) for m in whole[0].models()]
    together = whole[0].predict(rows, accelerator)
    for tower in ("image", "text"):
        mean = np.mean([p.probabilities(tower) for p in each], 0)
        np.testing.assert_allclose(together.probabilities(tower), mean, atol=1e-12)
    assert together.image_embedding.shape[1] == 2 * each[0].image_embedding.shape[1]
    votes = whole[0].votes(rows, accelerator)
    agreed = [p.probabilities("fused").argmax(-1) for p in each]
    same = agreed[0] == agreed[1]
    assert (votes[same] == agreed[0][same]).all()


def test_a_missing_tower_stays_missing():
    nothing, one = np.zeros((3, 0)), np.zeros((3, 2))
    labels = np.array([0, 1, 0])
    alone = Predictions(one, nothing, one, nothing, labels, labels)
    assert averaged([alone, alone]).towers == ("fused", "image")


def test_the_expected_cost_is_that_of_drawn_requests():
    rng = np.random.default_rng(0)
    shards, slices, patients = 4, 3, 5
    costs = []
    for _ in range(20_000):
        shard, part = rng.integers(shards, size=patients), rng.integers(slices, size=patients)
        cost = 0
        for s in set(shard):
            first = part[shard == s].min()
            cost += sum(range(first + 1, slices + 1))
        costs.append(cost / (shards * sum(range(1, slices + 1))))
    assert expected_share(patients, shards, slices) == pytest.approx(np.mean(costs), rel=0.02)
    assert expected_share(1, 8, 1) == pytest.approx(1 / 8)
    assert expected_share(3, 1, 1) == 1
