"""Many unlearned models against many retrained ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from forget_mi.data import make_request, split_by_patient
from forget_mi.evaluation import ruli
from forget_mi.evaluation.klom import klom
from forget_mi.runs import open_run
from forget_mi.studies.study import Study, train_study


def many_against_many(
    originals: Sequence[np.ndarray],
    unlearned: Mapping[str, Sequence[np.ndarray]],
    retrained: Sequence[np.ndarray],
) -> pd.DataFrame:
    """Distributions over models, record by record. Margins: a list of arrays (records) a kind of
    model; of the retrained, twice as many as of the others, so that one half can be compared with
    the other.

    A row an approach (original and retrained included): klom_forget_mean, klom_forget_95 (95th
    percentile over the records), klom_forget_floor (retrained against retrained), and RULI's
    efficacy game (AUC of telling F_ul from F_re by a record's margin, .5 is perfect):
    ruli_efficacy_auc over all records, and _vulnerable over the tenth that the original has
    memorised most.
    """
    half = len(retrained) // 2
    gold, others = np.stack(retrained[:half]), np.stack(retrained[half : 2 * half])
    floor = float(klom(others, gold).mean())
    # Chosen by the other half of the retrained models, so that those who judge have no part in it.
    memorised = np.stack(originals).mean(0) - others.mean(0)
    vulnerable = memorised >= np.quantile(memorised, 0.9)
    rows = []
    for name, found in {"original": originals, **unlearned, "retrained": list(others)}.items():
        mine = np.stack(found[:half])
        distance = klom(mine, gold)
        rows.append(
            {
                "approach": name,
                "models": half,
                "klom_forget_mean": float(distance.mean()),
                "klom_forget_95": float(np.quantile(distance, 0.95)),
                "klom_forget_floor": floor,
                "ruli_efficacy_auc": ruli.efficacy(mine, gold),
                "ruli_efficacy_vulnerable": ruli.efficacy(mine[:, vulnerable], gold[:, vulnerable])
                if name != "retrained"
                else np.nan,
            }
        )
    return pd.DataFrame(rows)


def many_run(folder: Path, seed: int) -> Study:
    """The profile params/many.yaml with models of a seed, on one split and request."""
    run = open_run(
        "many", folder / f"seed{seed}", {"seed": seed, "split.seed": 0, "request.seed": 0}
    )
    cohort = split_by_patient(run.source(), run.params.split)
    return train_study(run, cohort, make_request(cohort, run.params.request))
