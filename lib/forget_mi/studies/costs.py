"""What deletion requests cost in a year."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from forget_mi.errors import InputError
from forget_mi.runs.policies import POLICIES

AT_EACH = "retraining_at_each"  # of figures/year.csv: the trainings that it takes at each letter


def yearly_cost(
    training_hours: float,
    price: float,
    requests: Sequence[int],
    *,
    share: float,
    of_references: float,
    one_off: float,
) -> pd.DataFrame:
    """What deletion requests cost in the first year, in the currency of `price` (of a GPU hour):
    retraining at each request, retraining once a month for all that came in, and held-out targets.
    Index: requests a year.

    share, of_references: of a training, what a request costs the model and the reference models.
    one_off: trainings that the reference models cost once. Raises InputError for a number that is
    not positive.
    """
    for name, value in (("training_hours", training_hours), ("price", price), ("share", share)):
        if not value > 0:
            raise InputError(f"{name} = {value}: a positive number is allowed")
    training = training_hours * price
    rows = {
        count: {
            "retrain at each request": count * training,
            "retrain once a month": min(count, 12) * training,
            "held-out targets": (one_off + count * (share + of_references)) * training,
        }
        for count in requests
    }
    return pd.DataFrame(rows).T.rename_axis("requests a year")


def policy_costs(
    year: pd.DataFrame,
    training_hours: float,
    price: float,
    letters_a_week: float,
    *,
    longest_wait: float = 30.0,
    largest_gap: float = 0.05,
) -> pd.DataFrame:
    """What each policy of a simulated year costs where letters come at another rate, cheapest
    first. Index: policy; columns: trainings (a year, references included), cost (in the currency of
    `price`, of a GPU hour), wait (days, at most), exposure_days, gap (the largest of the model in
    use at the end of a quarter), fits (whether wait and gap are within what is allowed).

    year: the rows of figures/year.csv, means over seeds are taken. Retraining at each letter is
    there without having been simulated: what it takes is counted, and its gap is that of two
    retrained models; exposure_days is then missing. longest_wait: days that the law
    allows between a letter and its serving. What unlearning costs grows with the letters, what a
    schedule of retraining costs does not; retraining at each request, or by the alarm, grows as
    well. Raises InputError for a number that is not positive.
    """
    numbers = {
        "training_hours": training_hours,
        "price": price,
        "letters_a_week": letters_a_week,
        "longest_wait": longest_wait,
        "largest_gap": largest_gap,
    }
    for name, value in numbers.items():
        if not value > 0:
            raise InputError(f"{name} = {value}: a positive number is allowed")
    rows = []
    for (policy, _), one in year.groupby(["policy", "seed"], sort=False):
        last, rule = one.sort_values("week", kind="stable").iloc[-1], POLICIES[policy]
        more = letters_a_week * 52 / last.letters
        total = last.trainings + last.trainings_of_references
        scheduled = rule.retrain == "quarterly" or (rule.retrain == "instead" and rule.every > 0)
        grows = last.unlearning if scheduled else total
        rows.append(
            {
                "policy": policy,
                "trainings": total - grows + grows * more,
                "wait": rule.every,
                "exposure_days": last.exposure_days,
                "gap": one.mean_gap.max(),
            }
        )
        if AT_EACH in one and "retrain_at_once" not in set(year.policy):
            rows.append(
                {
                    "policy": "retrain_at_once",
                    "trainings": last[AT_EACH] * more,
                    "wait": 0.0,
                    "gap": one.retrain_gap.max(),
                }
            )
    table = pd.DataFrame(rows).groupby("policy", sort=False).mean()
    table.insert(1, "cost", table.trainings * training_hours * price)
    table["fits"] = (table.wait <= longest_wait) & (table.gap <= largest_gap)
    return table.sort_values("cost", kind="stable")
