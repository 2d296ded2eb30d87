"""(c): unlearning as a share of retraining over sizes of cohort and request, and how both grow.

Forget-MI runs whole, with its tuned settings and no early stop; beside it, on the largest requests,
the demo's own approach. Its references are the model itself: their outputs cost the same, whatever
they are. Before each unlearning an epoch of retraining is measured; retraining is the median epoch
of that size of cohort, by the record, times the records that stay and the demo's number of epochs.
Threads are the demo's. Small cohorts, where all is over in seconds, are measured three times. Large
cohorts repeat the records of a small one under new ids, likewise.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import partial

import numpy as np
import pandas as pd
from measure import Row, seconds, spread

from forget_mi.data.cohort import Cohort, rows_of
from forget_mi.data.cohorts import synthetic
from forget_mi.data.requests import draw_request
from forget_mi.data.splits import SplitConfig, split_by_patient
from forget_mi.models.build import build_model
from forget_mi.models.config import NAMED
from forget_mi.models.image_text import ImageTextModel
from forget_mi.models.tokenizers import build_tokenizer
from forget_mi.runs.params import approach_overrides
from forget_mi.runs.profiles import load_profile
from forget_mi.training.devices import make_accelerator
from forget_mi.training.loop import train
from forget_mi.unlearning import get_method
from forget_mi.unlearning.base import Reference, UnlearningData

SIZES = (500, 1000, 2000, 5000, 10_000, 20_000)
FRACTIONS = (0.01, 0.03, 0.1)
FIXED = 100
SMALL = 2000
PAPER = "forget_mi-multimodal"
DEFAULT = "held_out_targets"


def repeated(cohort: Cohort, pairs: int) -> Cohort:
    """So many pairs, the cohort's over and over, each time of new patients."""
    rows = np.arange(pairs) % len(cohort)
    copy = np.arange(pairs) // len(cohort)
    table = cohort.table.iloc[rows].reset_index(drop=True)
    for name in ("patient_id", "study_id", "image_id"):
        table[name] = table[name] + [f"-{k}" for k in copy]
    reports = {
        f"{study}-{k}": text
        for study, text in cohort.reports.items()
        for k in range(copy.max() + 1)
    }
    return replace(cohort, table=table, images=cohort.images[rows], reports=reports)


def with_references(data: UnlearningData, model: ImageTextModel) -> UnlearningData:
    """Two references, each a stranger to every other record of the request."""
    odd = np.arange(len(data.forget)) % 2 == 1
    both = (("0", odd), ("1", ~odd))
    return replace(
        data,
        references=tuple(
            Reference(name, model, data.forget, data.validation, s) for name, s in both
        ),
    )


def measured() -> pd.DataFrame:
    """approach, pairs, request (a share, or the number of images), unlearning in seconds, and the
    epoch of retraining before it: records that stay, seconds, epochs of a retraining; a row a
    round."""
    base = synthetic.load(synthetic.SyntheticConfig(patients=400))
    for _ in measured_at(base, SIZES[0]):  # warms up
        pass
    columns = ["approach", "pairs", "request", "unlearning", "stay", "epoch", "epochs"]
    return pd.DataFrame(
        [line for pairs in SIZES for line in measured_at(base, pairs)], columns=columns
    )


def measured_at(base: Cohort, pairs: int) -> Iterator[tuple[str, int, str, float, int, float, int]]:
    """Those of one size of cohort."""
    own, paper = (
        load_profile("demo", approach_overrides(name, "demo")) for name in (DEFAULT, PAPER)
    )
    training, accelerator = own.training, make_accelerator(own.device)
    cohort = split_by_patient(repeated(base, pairs), SplitConfig())
    trained_on = len(rows_of(cohort, "train"))
    tokenizer = build_tokenizer(
        NAMED["small"], [cohort.report_of(r) for r in rows_of(cohort, "train")[:2000]]
    )
    model = build_model(NAMED["small"], len(cohort.classes), len(tokenizer), seed=0)
    for fraction in (*FRACTIONS, FIXED / trained_on):
        request = draw_request(cohort, fraction, seed=0)
        data = UnlearningData.from_cohort(cohort, request, tokenizer, NAMED["small"].max_tokens)
        data = with_references(data, model)
        kind = f"{100 * fraction:g} %" if fraction in FRACTIONS else f"{FIXED} images"
        for _ in range(3 if pairs <= SMALL else 1):
            fresh = build_model(NAMED["small"], len(cohort.classes), len(tokenizer), seed=0)
            log = train(fresh, data.retain, data.validation, replace(training, epochs=1), seed=0,
                        accelerator=accelerator, progress=False)  # fmt: skip
            works = [(PAPER, paper)]
            if fraction == FRACTIONS[-1]:
                works.append((DEFAULT, own))
            for approach, params in works:
                unlearn = partial(
                    get_method(params.method).unlearn,
                    model,
                    data,
                    replace(params.unlearning, stop="never"),
                    seed=0,
                    accelerator=accelerator,
                    progress=False,
                )
                line = (
                    approach,
                    pairs,
                    kind,
                    seconds(unlearn),
                    len(data.retain),
                    log.seconds,
                    training.epochs,
                )
                print(*line, flush=True)
                yield line


def rows() -> list[Row]:
    """Shares, and exponents b of seconds = a x pairs^b with the interval of the fit."""
    from scipy.stats import linregress

    table = measured()
    found = []
    for pairs, same_size in table.groupby("pairs", sort=False):
        record = spread(same_size.drop_duplicates("epoch").eval("epoch / stay"))
        for (request, approach), part in same_size.groupby(["request", "approach"], sort=False):
            retraining, fast, slow = (
                each * part.stay.iloc[0] * part.epochs.iloc[0] for each in record
            )
            table.loc[part.index, "retraining"] = retraining
            if request.endswith("%"):
                case = f"{approach}, share of retraining, {request} of {pairs} pairs"
                middle, low, high = spread(part.unlearning)
                found.append(Row("c", case, middle / retraining, low / slow, high / fast))
    table = table.groupby(["approach", "request", "pairs"], sort=False, as_index=False).median()
    for (approach, request), part in table.groupby(["approach", "request"], sort=False):
        fit = linregress(np.log(part.pairs), np.log(part.unlearning))
        interval = (fit.slope - 1.96 * fit.stderr, fit.slope + 1.96 * fit.stderr)
        found.append(
            Row(
                "c",
                f"{approach}, exponent of unlearning time, request of {request}",
                fit.slope,
                *interval,
            )
        )
    part = table[(table.request == "10 %") & (table.approach == DEFAULT)]
    fit = linregress(np.log(part.pairs), np.log(part.retraining))
    found.append(Row("c", "exponent of retraining time", fit.slope, fit.slope - 1.96 * fit.stderr,
                     fit.slope + 1.96 * fit.stderr))  # fmt: skip
    return found
