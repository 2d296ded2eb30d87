"""Shadow models: who is in which, that they are whole, kept and of the right cohort, and what
U-LiRA asks of them."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from conftest import TINY_MODEL, make_cohort
from hypothesis import given, settings
from hypothesis import strategies as st

from forget_mi.attacks.lira import likelihood_ratio
from forget_mi.data.cohort import rows_of
from forget_mi.errors import InputError
from forget_mi.training.config import DeviceConfig, ShadowConfig, TrainingConfig
from forget_mi.training.shadows import Shadows, balanced_halves, open_shadow_set
from forget_mi.unlearning import fine_tune, held_out_targets
from forget_mi.unlearning.shadows import draw_shadow_request, unlearn_shadow_models

TRAINING = TrainingConfig(epochs=1, batch_size=16)


@settings(max_examples=40, deadline=None)
@given(st.integers(4, 40), st.integers(2, 6), st.integers(0, 99))
def test_each_patient_is_in_half_of_the_models_and_each_class_in_halves(patients, pairs, seed):
    rng = np.random.default_rng(seed)
    label = rng.integers(2, size=patients)
    images = np.repeat(np.arange(patients), rng.integers(1, 4, patients))
    cohort = make_cohort([f"p{i}" for i in images], label[images].tolist())
    halves = balanced_halves(cohort, 2 * pairs, seed)
    assert (halves.sum(0) == pairs).all()
    assert (halves == balanced_halves(cohort, 2 * pairs, seed)).all()
    for which in (0, 1):
        count = halves[:, label == which].sum(1)
        assert (np.abs(count - (label == which).sum() / 2) <= 0.5).all()
    assert (np.abs(halves.sum(1) - patients / 2) <= 1).all()


@pytest.fixture(scope="module")
def trained(cohort, tmp_path_factory):
    from forget_mi.training.devices import make_accelerator

    found = open_shadow_set(
        tmp_path_factory.mktemp("shadows"),
        cohort,
        TINY_MODEL,
        TRAINING,
        ShadowConfig(count=4),
        DeviceConfig(),
    )
    with pytest.raises(
        InputError,
        match=r"4 of 4 shadow models are missing \(the first is shadow-00\); make shadows",
    ):
        found.shadows()
    for number in range(4):
        found.train(number, make_accelerator(DeviceConfig(device="cpu")), progress=False)
    return found


def test_what_they_say_goes_with_who_they_know(trained, cohort):
    shadows = trained.shadows()
    assert len(shadows) == 4
    assert shadows.member.shape == (4, len(cohort))
    assert (shadows.member ^ shadows.stranger).all()
    for number in range(4):
        assert np.flatnonzero(shadows.member[number]).tolist() == trained.rows_of(number).tolist()
        by_patient = pd.Series(shadows.member[number]).groupby(cohort.table.patient_id.to_numpy())
        assert (by_patient.nunique() == 1).all()  # whole patients
    assert (shadows.predictions[2].labels == cohort.table.label).all()


def test_a_whole_model_is_kept_and_a_damaged_answer_is_named(trained, accelerator, tmp_path):
    copy = replace(trained, folder=shutil.copytree(trained.folder, tmp_path / "copy"))
    before = (copy.path(1) / "manifest.json").stat().st_mtime_ns
    copy.train(1, accelerator, progress=False)
    assert (copy.path(1) / "manifest.json").stat().st_mtime_ns == before
    answers = copy.folder / "shadow-01.npz"
    answers.write_bytes(answers.read_bytes()[:-200])
    with pytest.raises(InputError, match=r"shadow-01\.npz: can't be read"):
        copy.shadows()


def test_shadow_models_of_another_cohort_are_refused(trained, tmp_path):
    copy = replace(trained, folder=shutil.copytree(trained.folder, tmp_path / "copy"))
    manifest = copy.path(3) / "manifest.json"
    manifest.write_text(
        json.dumps({**json.loads(manifest.read_text()), "cohort_fingerprint": "0" * 16})
    )
    with pytest.raises(
        InputError,
        match=r"shadow-03: was trained on another cohort \(0000000000000000; the cohort here",
    ):
        copy.shadows()


def test_another_configuration_has_another_folder_and_a_changed_one_is_refused(trained, cohort):
    parent, same = (
        trained.folder.parent,
        (TINY_MODEL, TRAINING, ShadowConfig(count=4), DeviceConfig()),
    )
    assert open_shadow_set(parent, cohort, *same).folder == trained.folder
    longer = (TINY_MODEL, replace(TRAINING, epochs=2), *same[2:])
    assert open_shadow_set(parent, cohort, *longer).folder != trained.folder
    assert (
        open_shadow_set(
            parent, cohort, *same[:2], ShadowConfig(count=4, seed=1), DeviceConfig()
        ).folder
        != trained.folder
    )
    assert open_shadow_set(parent, cohort.select(range(60)), *same).folder != trained.folder
    about = trained.folder / "shadows.json"
    kept = about.read_text()
    about.write_text(kept.replace('"epochs": 1', '"epochs": 7'))
    with pytest.raises(InputError, match="were trained with another configuration"):
        open_shadow_set(parent, cohort, *same)
    about.write_text(kept)


def test_one_set_serves_every_split(trained, cohort):
    other = replace(cohort, table=cohort.table.assign(split="train"))
    same = (TINY_MODEL, TRAINING, ShadowConfig(count=4), DeviceConfig())
    assert open_shadow_set(trained.folder.parent, other, *same).folder == trained.folder


def test_saved_answers_come_back(trained, tmp_path):
    shadows = trained.shadows().select(np.arange(20))
    shadows.save(tmp_path / "some.npz")
    again = Shadows.load(tmp_path / "some.npz", 20)
    assert (again.member == shadows.member).all()
    np.testing.assert_array_equal(
        again.predictions[3].text_logits, shadows.predictions[3].text_logits
    )
    with pytest.raises(InputError, match="holds 20 records, 21 are asked for"):
        Shadows.load(tmp_path / "some.npz", 21)


def test_requests_to_shadow_models_name_patients_they_know(cohort):
    members, judged = rows_of(cohort, "train"), np.arange(0, len(cohort), 2)
    for seed in range(10):
        request = draw_shadow_request(cohort, members, judged, 6, np.random.default_rng(seed))
        rows = np.flatnonzero(cohort.table.patient_id.isin(request.patients))
        assert set(rows) <= set(members)
        assert set(request.patients) <= set(
            cohort.table.patient_id.iloc[np.intersect1d(members, judged)]
        )
    assert (
        len(draw_shadow_request(cohort, members, judged, 0, np.random.default_rng(0)).patients) == 1
    )


def test_unlearned_shadow_models_know_what_they_forgot(trained, cohort, accelerator):
    judged = np.concatenate([rows_of(cohort, "test"), rows_of(cohort, "train")[:20]])
    method = fine_tune.Config(epochs=1, retain_batch=8)
    made = {"requests": 2, "seed": 0, "accelerator": accelerator}
    found = unlearn_shadow_models(trained, judged, 0.2, "fine_tune", method, **made)
    assert len(found) == 8
    assert not (found.member & found.stranger).any()
    for number in range(4):
        knew = np.isin(judged, trained.rows_of(number))
        for draw in range(2):
            assert found.member[2 * number + draw].any()
            assert knew[found.member[2 * number + draw]].all()
            assert (found.stranger[2 * number + draw] == ~knew).all()
    assert np.isfinite(likelihood_ratio(found.predictions[0], found, "fused")).all()


def test_a_method_that_learns_from_references_is_taught_by_strangers(
    trained, cohort, accelerator, monkeypatch
):
    judged = rows_of(cohort, "train")
    taught = []

    def watched(model, data, *arguments, **how):
        taught.append(data)
        return unlearn(model, data, *arguments, **how)

    unlearn = held_out_targets.unlearn
    monkeypatch.setattr(held_out_targets, "unlearn", watched)
    made = {"requests": 1, "seed": 0, "accelerator": accelerator}
    found = unlearn_shadow_models(
        trained, judged, 0.2, "held_out_targets", held_out_targets.Config(epochs=1), **made
    )
    assert len(found) == len(taught) == 4
    for pupil, data in enumerate(taught):
        rows = data.forget.rows.numpy()
        for teacher in data.references:
            number = int(teacher.name.removeprefix("shadow-"))
            assert number != pupil
            assert (teacher.stranger == ~np.isin(rows, trained.rows_of(number))).all()
        assert np.any([teacher.stranger for teacher in data.references], axis=0).all()
