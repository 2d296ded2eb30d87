"""The table of a real cohort's sweep, from made-up audits of two seeds."""

import json
from types import SimpleNamespace

import pandas as pd
import pytest

from forget_mi.evaluation import SAME, UNDER
from forget_mi.plots import beyond as beyond_plots
from forget_mi.studies import real_results
from forget_mi.studies.documents import with_earlier_rows
from forget_mi.studies.real_results import (
    ATTACKS,
    REAL,
    STUDY_KEYS,
    front_rows,
    largest_request,
    real_study,
    real_study_rows,
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


def test_a_row_an_approach_with_means_and_spread_over_seeds(sweep):
    table = real_study(sweep).set_index("method")
    assert table.index.tolist() == ["original", "mine", "retrained"]
    assert list(real_study(sweep).columns) == list(REAL)
    mine = table.loc["mine"]
    assert (mine.seeds, mine.requests, mine.cohort) == (2, 1, "medpix")
    assert mine.mean_gap == pytest.approx(0.2)
    assert mine.mean_gap_sd == pytest.approx(0.2 / 2**0.5)
    # Two retrained models a seed count once a seed: (.1 + .3) / 2.
    assert mine.retrain_gap == table.mean_gap["retrained"] == pytest.approx(0.2)
    assert mine.share_of_retraining == pytest.approx(0.1)  # by work, not by the clock
    assert mine.probe_auc_text == pytest.approx(0.61)
    assert table.indistinguishable.tolist() == [0, 0.5, 1]  # of re-1 nothing is said
    assert mine.lira_tpr_at_1pct_fpr == pytest.approx(0.01)
    # .1 on either side in each seed: sqrt(.01 + .01) / 2.
    assert mine.patients_found_at_5pct_high - 0.2 == pytest.approx(0.02**0.5 / 2)


def test_the_docs_show_the_nearest_first(sweep):
    rows = real_study_rows(real_study(sweep), "mine")
    assert rows.approach.tolist() == ["**mine**", "retrained", "original"]
    assert rows["mean gap"][0] == "0.200 (0.141)"
    assert rows["found at 5 %"][0] == "0.20 [0.13, 0.27]"
    assert rows["probe, text"][0] == "0.61"
    assert rows["not told apart"].tolist() == ["1 of 2", "2 of 2", "0 of 2"]


def test_the_first_page_shows_its_approaches_in_their_order(sweep, monkeypatch):
    monkeypatch.setattr(real_results, "FRONT", ("original", "mine", "retrained"))
    rows = front_rows(real_study(sweep), "mine")
    assert rows.approach.tolist() == ["original", "**mine**", "retrained"]
    assert rows.iloc[1, 1:4].tolist() == ["20 [13, 27]", "30", "0.200 (0.141)"]


def test_other_sizes_of_request_stay_and_the_same_are_replaced(sweep, tmp_path):
    table, path = real_study(sweep), tmp_path / "cohort.csv"
    assert with_earlier_rows(table, path, STUDY_KEYS) is table
    pd.concat([table.assign(forget_fraction=0.03), table.assign(mean_gap=9.0)]).to_csv(path)
    both = with_earlier_rows(table, path, STUDY_KEYS)[list(REAL)]
    assert both.forget_fraction.tolist() == [0.03] * 3 + [0.1] * 3
    assert both.mean_gap.max() < 1
    assert largest_request(both).method.tolist() == table.method.tolist()
    path.write_text("model,measure,value\noriginal,test_auc,0.8\n")  # of make real-results
    assert with_earlier_rows(table, path, STUDY_KEYS) is table


@pytest.mark.parametrize("shadows", [True, False])
def test_the_picture_has_a_point_a_method_and_names_the_ones_asked_for(sweep, shadows):
    table = real_study(sweep).assign(**({} if shadows else {"lira_patient_auc": None}))
    other = table[table.method == "mine"].assign(method="other")
    figure = beyond_plots.closeness_and_attack(pd.concat([table, other]), ["mine"], "mine")
    labels = [axis.get_ylabel() for axis in figure.axes]
    assert labels[1].startswith("LiRA" if shadows else "patients found")
    for axis in figure.axes:
        assert sorted(text.get_text() for text in axis.texts) == ["mine", "original", "retrained"]
        assert sum(line.get_marker() == "o" for line in axis.lines) == 2
