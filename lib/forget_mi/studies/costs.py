"""What deletion requests cost in a year."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from forget_mi.errors import InputError


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
