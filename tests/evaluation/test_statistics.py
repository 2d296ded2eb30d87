import numpy as np
import pandas as pd
import pytest
from scipy import stats

from forget_mi.evaluation import statistics
from forget_mi.evaluation.statistics import (
    add_approach_column,
    gaps_to_retrained,
    mean_ranks,
    paired_differences,
    sort_approaches,
    summary,
)


def grid(seeds=(0, 1, 2), fractions=(0.1, 0.03)) -> pd.DataFrame:
    rng = np.random.default_rng(0)
    rows = []
    for seed in seeds:
        for fraction in fractions:
            for model, method in [
                ("original", "original"),
                ("a", "a"),
                ("b-x", "b"),
                ("retrained-1", "retrain"),
                ("retrained-2", "retrain"),
            ]:
                value, gap = rng.random(2)
                rows.append(
                    {
                        "model": model,
                        "method": method,
                        "seed": seed,
                        "forget_fraction": fraction,
                        "test_auc": value,
                        "mean_gap": gap,
                    }
                )
    return pd.DataFrame(rows)


def test_approaches_are_named_and_ordered():
    rows = add_approach_column(grid())
    assert set(rows.approach) == {"original", "a", "b-x", "retrained"}
    assert sort_approaches(rows.approach, first="b-x") == ["original", "b-x", "a", "retrained"]


def test_summary_is_mean_and_spread_over_seeds():
    table = grid()
    found = summary(table, {"test_auc": "test AUC"})
    values = table.test_auc[(table.model == "a") & (table.forget_fraction == 0.03)]
    assert found.loc[("3%", "a"), "test AUC"] == f"{values.mean():.2f} ({values.std():.2f})"
    assert len(table[(table.method == "retrain") & (table.forget_fraction == 0.1)]) == 6
    assert found.index.get_level_values("request").unique().tolist() == ["3%", "10%"]
    alone = summary(table[(table.seed == 0)], {"test_auc": "test AUC"})
    assert "(" not in alone.loc[("3%", "a"), "test AUC"]


def test_gaps_are_to_the_retrained_models_of_the_same_run():
    table = grid()
    gaps = gaps_to_retrained(table, ["test_auc"])
    run = table[(table.seed == 1) & (table.forget_fraction == 0.03)].set_index("model").test_auc
    here = gaps[(gaps.seed == 1) & (gaps.forget_fraction == 0.03)]
    retrained = (run["retrained-1"] + run["retrained-2"]) / 2
    assert here.gap[here.approach == "a"].item() == pytest.approx(run["a"] - retrained)
    assert sorted(here.gap[here.approach == "retrained"]) == pytest.approx(
        sorted([run["retrained-1"] - run["retrained-2"], run["retrained-2"] - run["retrained-1"]])
    )
    alone = gaps_to_retrained(table[table.model != "retrained-2"], ["test_auc"])
    assert alone.gap[alone.approach == "retrained"].isna().all()


def test_paired_differences_are_those_of_scipy_over_seeds():
    table = grid()
    found = paired_differences(table, reference="a").iloc[0]
    by_seed = table.groupby(["model", "seed"]).mean_gap.mean().unstack("model")
    test = stats.ttest_rel(by_seed["b-x"], by_seed["a"])
    low, high = test.confidence_interval(0.95)
    assert (found.approach, found.seeds) == ("b-x", 3)
    assert found.difference == pytest.approx((by_seed["b-x"] - by_seed["a"]).mean())
    assert (found.low, found.high) == pytest.approx((low, high))


def test_one_seed_has_a_difference_and_no_interval():
    found = paired_differences(grid(seeds=(0,)), reference="a").iloc[0]
    assert np.isfinite(found.difference)
    assert np.isnan([found.low, found.high]).all()
    assert paired_differences(grid(), reference="nobody").empty


def test_ranks_are_within_a_seed_and_request():
    table = grid()
    found = mean_ranks(table).set_index("approach")
    pair = table[table.model.isin(["a", "b-x"])].pivot_table(
        index=["seed", "forget_fraction"], columns="model", values="mean_gap"
    )
    assert found.mean_rank["a"] == pytest.approx(1 + (pair["a"] > pair["b-x"]).mean())
    assert set(found.index) == {"a", "b-x"}
    assert statistics.mean_ranks(table[table.model != "b-x"]).mean_rank.tolist() == [1]
