"""The table of a real cohort's sweep, from made-up audits of two seeds."""

import json
from types import SimpleNamespace

import pandas as pd
import pytest

from forget_mi.errors import InputError
from forget_mi.evaluation import SAME, UNDER
from forget_mi.plots import beyond as beyond_plots
from forget_mi.studies import real_results
from forget_mi.studies.documents import with_earlier_rows
from forget_mi.studies.real_results import (
    ATTACKS,
    REAL,
    SEED_KEYS,
    SEED_ROWS,
    front_rows,
    largest_request,
    real_study_rows,
    size_rows,
    study_by_seed,
    study_means,
)

MODELS = {"original": "original", "mine": "held_out_targets", "re-1": "retrain", "re-2": "retrain"}


@pytest.fixture
def sweep(tmp_path):
    """Two seeds; mean_gap of `mine` .1 and .3, of the retrained models .1, .1 and .2, .4."""
    gaps = {0: [0.5, 0.1, 0.1, 0.1], 1: [0.7, 0.3, 0.2, 0.4]}
    for seed, values in gaps.items():
        folder = tmp_path / f"seed{seed}-10pct" / "04_audit"
        folder.mkdir(parents=True)
        rows = pd.DataFrame({"model": list(MODELS), "method": list(MODELS.values())})
        rows = rows.assign(forget_fraction=0.1, seed=seed, mean_gap=values, test_auc=0.8)
        rows = rows.assign(share_of_work=[1.2, 0.1, 1, 1], share_of_retraining=9.0)
        rows = rows.assign(share_of_references=[0, 18.0, 0, 0])
        rows = rows.assign(patients_found_at_5pct=[1, 0.2, 0, 0.1])
        rows = rows.assign(patients_found_at_5pct_low=[1, 0.1, 0, 0], patients_found_at_1pct=0.0)
        rows["patients_found_at_5pct_high"] = [1, 0.3, 0.2, 0.2]
        rows = rows.assign(found_after_training_on=0.3, lira_after_training_on=0.6)
        rows.to_csv(folder / "comparison.csv", index=False)
        average = {"original": "under-forgotten", "mine": (UNDER, SAME)[seed], "re-2": SAME}
        (folder / "outcome.json").write_text(json.dumps({"ok": True, "average": average}))
        attacks = [
            {"model": model, "attack": attack, "tower": tower, "level": level}
            | {"auc": 0.5 + 0.1 * at + 0.02 * seed, "tpr_at_1pct_fpr": 0.01 * at}
            for at, model in enumerate(MODELS)
            for attack, tower, level, _ in ATTACKS.values()
        ]
        pd.DataFrame(attacks).drop_duplicates().to_csv(folder / "attacks.csv", index=False)
    params = SimpleNamespace(profile="medpix")
    names = [f"seed{seed}-10pct" for seed in gaps]
    return SimpleNamespace(folder=tmp_path, own="mine", params=params, names=lambda: names)


def means(sweep):
    return study_means(study_by_seed(sweep), "mine")


def test_a_row_an_approach_with_means_and_spread_over_seeds(sweep):
    table = means(sweep).set_index("method")
    assert table.index.tolist() == ["original", "mine", "retrained"]
    assert list(means(sweep).columns) == list(REAL)
    mine = table.loc["mine"]
    assert (mine.seeds, mine.requests, mine.cohort) == (2, 1, "medpix")
    assert mine.mean_gap == pytest.approx(0.2)
    assert mine.mean_gap_sd == pytest.approx(0.2 / 2**0.5)
    # Two retrained models a seed count once a seed: (.1 + .3) / 2.
    assert mine.retrain_gap == table.mean_gap["retrained"] == pytest.approx(0.2)
    assert mine.share_of_retraining == pytest.approx(0.1)  # by work, not by the clock
    assert mine.share_of_references == pytest.approx(0.2)  # twice its own seconds
    assert mine.probe_auc_text == pytest.approx(0.61)
    assert table.indistinguishable.tolist() == [0, 0.5, 1]  # of re-1 nothing is said
    assert mine.lira_tpr_at_1pct_fpr == pytest.approx(0.01)
    # .1 on either side in each seed: sqrt(.01 + .01) / 2.
    assert mine.patients_found_at_5pct_high - 0.2 == pytest.approx(0.02**0.5 / 2)


def test_the_docs_show_the_nearest_first(sweep):
    rows = real_study_rows(means(sweep), "mine")
    assert rows.approach.tolist() == ["**mine**", "retrained", "original"]
    assert rows["mean gap"][0] == "0.200 (0.141)"
    assert rows["found at 5 %"][0] == "0.20 [0.13, 0.27]"
    assert rows["probe, text"][0] == "0.61"
    assert rows["not told apart"].tolist() == ["1 of 2", "2 of 2", "0 of 2"]


def test_the_first_page_shows_its_approaches_in_their_order(sweep, monkeypatch):
    monkeypatch.setattr(real_results, "FRONT", ("original", "mine", "retrained"))
    rows = front_rows(means(sweep), "mine")
    assert rows.approach.tolist() == ["original", "**mine**", "retrained"]
    assert rows.iloc[1, 1:4].tolist() == ["20 [13, 27]", "30", "0.200 (0.141)"]


def test_the_sizes_of_a_request_stand_below_each_other(sweep, monkeypatch):
    monkeypatch.setattr(real_results, "FRONT", ("original", "mine"))
    large = means(sweep)
    small = large.assign(forget_fraction=0.03, mean_gap=0.4)
    rows = size_rows(pd.concat([large, small]), "mine")
    assert rows.request.tolist() == ["3 %", "3 %", "10 %", "10 %"]
    assert rows.approach.tolist() == ["original", "**mine**"] * 2
    assert rows["mean gap"].tolist()[1::2] == ["0.400 (0.141)", "0.200 (0.141)"]


def test_a_study_is_finished_in_parts(sweep, tmp_path):
    rows, path = study_by_seed(sweep), tmp_path / "cohort_seeds.csv"
    assert list(rows.columns) == list(SEED_ROWS)
    assert with_earlier_rows(rows, path, SEED_KEYS) is rows
    first, second = rows[rows.seed == 0], rows[rows.seed == 1]
    pd.concat([first, second.assign(mean_gap=9.0), rows.assign(forget_fraction=0.03)]).to_csv(path)
    both = study_means(with_earlier_rows(second, path, SEED_KEYS), "mine")
    assert both.forget_fraction.tolist() == [0.03] * 3 + [0.1] * 3
    pd.testing.assert_frame_equal(largest_request(both).reset_index(drop=True), means(sweep))
    path.write_text("model,measure,value\noriginal,test_auc,0.8\n")  # another table
    assert with_earlier_rows(rows, path, SEED_KEYS) is rows


def test_the_floor_of_a_method_is_that_of_its_own_seeds(sweep):
    rows = study_by_seed(sweep)
    table = study_means(rows[(rows.method != "mine") | (rows.seed == 0)], "mine")
    table = table.set_index("method")
    assert table.loc["mine", ["seeds", "mean_gap", "retrain_gap"]].tolist() == [1, 0.1, 0.1]
    assert table.retrain_gap["retrained"] == pytest.approx(0.2)


@pytest.mark.parametrize("shadows", [True, False])
def test_the_picture_has_a_point_a_method_and_names_the_ones_asked_for(sweep, shadows):
    table = means(sweep).assign(**({} if shadows else {"lira_patient_auc": None}))
    other = table[table.method == "mine"].assign(method="other")
    figure = beyond_plots.closeness_and_attack(pd.concat([table, other]), ["mine"], "mine")
    labels = [axis.get_ylabel() for axis in figure.axes]
    assert labels[1].startswith("LiRA" if shadows else "patients found")
    for axis in figure.axes:
        assert sorted(text.get_text() for text in axis.texts) == ["mine", "original", "retrained"]
        assert sum(line.get_marker() == "o" for line in axis.lines) == 2


def test_one_run_does_not_replace_a_study(tmp_path, monkeypatch):
    monkeypatch.setattr(real_results, "ROOT", tmp_path)
    (tmp_path / "figures").mkdir()
    (tmp_path / "figures" / "medpix_seeds.csv").touch()
    with pytest.raises(InputError, match="make results PROFILE=medpix"):
        real_results.rebuild_real_results("medpix")
