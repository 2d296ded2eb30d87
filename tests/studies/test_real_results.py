"""The table of a real cohort's sweep, from made-up audits of two seeds."""

from types import SimpleNamespace

import pandas as pd
import pytest

from forget_mi.studies.real_results import ATTACKS, REAL, real_study, real_study_rows

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
    assert mine.lira_tpr_at_1pct_fpr == pytest.approx(0.01)
    # .1 on either side in each seed: sqrt(.01 + .01) / 2.
    assert mine.patients_found_at_5pct_high - 0.2 == pytest.approx(0.02**0.5 / 2)


def test_the_docs_show_the_nearest_first(sweep):
    rows = real_study_rows(real_study(sweep), "mine")
    assert rows.approach.tolist() == ["**mine**", "retrained", "original"]
    assert rows["mean gap"][0] == "0.200 (0.141)"
    assert rows["found at 5 %"][0] == "0.20 [0.13, 0.27]"
    assert rows["probe, text"][0] == "0.61"
