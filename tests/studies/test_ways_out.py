"""Prepare, prevent or unlearn: the study on tiny models."""

from dataclasses import replace

import numpy as np
import pytest

from forget_mi.data import make_request, split_by_patient
from forget_mi.data.requests import Request
from forget_mi.runs import open_run
from forget_mi.runs import shadows as shadow_module
from forget_mi.studies import ways_out as module
from forget_mi.studies.study import train_study
from forget_mi.studies.ways_out import A_YEAR, ways_out
from forget_mi.training.shadows import Shadows, balanced_halves
from forget_mi.training.sisa import expected_share

pytest.importorskip("opacus")


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ways")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "SHARDS", (2,))
        patch.setattr(module, "SLICES", 2)
        patch.setattr(module, "EPSILONS", (8.0,))
        one, fifth = studies(folder)
        yield ways_out([one, fifth], "demo", folder)


def studies(folder):
    """A request of one patient, and one of a fifth of the images."""
    for name, fraction in (("1patient", 0.1), ("20pct", 0.2)):
        changes = {"shadows.count": 0, "request.fraction": fraction}
        run = open_run("tiny", folder / name, changes)
        cohort = split_by_patient(run.source(), run.params.split)
        asked = make_request(cohort, run.params.request)
        if name == "1patient":
            asked = Request(name, asked.patients[:1])
        yield train_study(run, cohort, asked)


def test_each_way_has_a_row_a_request(table):
    approaches = set(table.approach)
    assert {"original", "sisa-2", "dp-sgd-8", "held_out_targets"} <= approaches
    assert table.request.unique().tolist() == ["1 patient", "20%"]
    ways = table.groupby("way").guarantee.unique().map(list).to_dict()
    assert ways["prepare"] == ["exact"]
    assert ways["unlearn"] == ["empirical"]
    (said,) = ways["prevent"]
    epsilon = float(said[1:].split(",")[0])
    assert epsilon <= 8
    assert "by patient" in said


def test_costs_are_those_of_each_way(table):
    by = table.set_index(["approach", "request"])
    one = by.loc[("sisa-2", "1 patient")]
    assert one.expected_share == pytest.approx(expected_share(1, 2, 2))
    assert 0 < one.share_of_training < 1
    assert one.trainings_a_year == pytest.approx(A_YEAR * one.expected_share * one.trainings_before)
    assert (table[table.way == "prevent"].share_of_retraining == 0).all()
    assert by.loc[("held_out_targets", "20%"), "trainings_before"] == pytest.approx(2, abs=0.05)
    shares = table[table.approach == "sisa-2"].set_index("request").share_of_training
    assert shares["1 patient"] <= shares["20%"]


def test_all_are_measured_alike(table):
    assert table.test_auc.between(0, 1).all()
    assert table.mean_gap.ge(0).all()
    assert table.patients_found_at_5pct.notna().all()


def test_shadow_models_of_a_private_model_are_private_too(tmp_path, monkeypatch):
    monkeypatch.setattr(shadow_module, "SHADOWS", tmp_path / "shadows")
    judged = open_run("tiny", tmp_path / "judged", {"shadows.count": 4})
    study = replace(next(studies(tmp_path)), run=judged, shadows=Shadows([], None, None))
    trained = []
    plain = module._trained_privately
    monkeypatch.setattr(
        module, "_trained_privately", lambda *how: trained.append(how) or plain(*how)
    )
    found = module._private_shadows(study)
    patients = study.cohort.table.patient_id.factorize()[0]
    halves = balanced_halves(study.cohort, 4, judged.params.shadows.seed)[:, patients]
    assert (found.member == halves).all()
    assert (found.stranger == ~halves).all()
    assert len(found.predictions[0].labels) == len(study.cohort)
    assert [seed for *_, seed in trained] == [module.SEEDS + number for number in range(4)]
    for (_, cohort, _, _), half in zip(trained, halves, strict=True):
        assert ((cohort.table.split == "train").to_numpy() == half).all()
    again = module._private_shadows(study)
    assert len(trained) == 4
    np.testing.assert_array_equal(again.member, found.member)
    assert module._private_shadows(replace(study, shadows=None)) is None
