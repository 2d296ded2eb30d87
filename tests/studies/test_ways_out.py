"""Prepare, prevent or unlearn: the study on tiny models."""

import pytest

from forget_mi.data import make_request, split_by_patient
from forget_mi.data.requests import Request
from forget_mi.runs import open_run
from forget_mi.studies import ways_out as module
from forget_mi.studies.study import train_study
from forget_mi.studies.ways_out import A_YEAR, ways_out
from forget_mi.training.sisa import expected_share

pytest.importorskip("opacus")


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ways")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "SHARDS", (2,))
        patch.setattr(module, "SLICES", 2)
        patch.setattr(module, "EPSILONS", (8.0,))
        studies = []
        for name, fraction in (("1patient", 0.1), ("20pct", 0.2)):
            changes = {"shadows.count": 0, "request.fraction": fraction}
            run = open_run("tiny", folder / name, changes)
            cohort = split_by_patient(run.source(), run.params.split)
            asked = make_request(cohort, run.params.request)
            if name == "1patient":
                asked = Request(name, asked.patients[:1])
            studies.append(train_study(run, cohort, asked))
        yield ways_out(studies, "demo", folder)


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
