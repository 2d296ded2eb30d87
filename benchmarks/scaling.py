"""(c): unlearning as a share of retraining over sizes of cohort and request, and how both grow.

Forget-MI runs whole, with its tuned settings and no early stop. Retraining is one measured epoch times the
demo's number of epochs. Large cohorts repeat the records of a small one under new ids: the cost is the same.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
from measure import Row, seconds

from forget_mi.cohorts import synthetic
from forget_mi.cohorts.base import Cohort
from forget_mi.devices import make_accelerator
from forget_mi.models import NAMED, build_model, build_tokenizer
from forget_mi.profiles import load_profile, with_approach
from forget_mi.splits import SplitConfig, draw_request, rows_of, split_by_patient
from forget_mi.training import train
from forget_mi.unlearning import UnlearningData, find

SIZES = (500, 1000, 2000, 5000, 10_000, 20_000)
FRACTIONS = (0.01, 0.03, 0.1)
FIXED = 100


def repeated(cohort: Cohort, pairs: int) -> Cohort:
    """So many pairs, the cohort's over and over, each time of new patients."""
    rows = np.arange(pairs) % len(cohort)
    copy = np.arange(pairs) // len(cohort)
    table = cohort.table.iloc[rows].reset_index(drop=True)
    for name in ("patient_id", "study_id", "image_id"):
        table[name] = table[name] + [f"-{k}" for k in copy]
    reports = {f"{study}-{k}": text for study, text in cohort.reports.items() for k in range(copy.max() + 1)}
    return replace(cohort, table=table, images=cohort.images[rows], reports=reports)


def measured() -> pd.DataFrame:
    """pairs, request (a share, or the number of images), retraining and unlearning in seconds."""
    params, accelerator = load_profile("demo", with_approach("forget_mi-multimodal", "demo")), make_accelerator()
    base = synthetic.load(synthetic.SyntheticConfig(patients=400))
    lines = []
    for pairs in SIZES:
        cohort = split_by_patient(repeated(base, pairs), SplitConfig())
        training = len(rows_of(cohort, "train"))
        tokenizer = build_tokenizer(NAMED["small"], [cohort.report_of(r) for r in rows_of(cohort, "train")[:2000]])
        model = build_model(NAMED["small"], len(cohort.classes), len(tokenizer), seed=0)
        for fraction in (*FRACTIONS, FIXED / training):
            request = draw_request(cohort, fraction, seed=0)
            data = UnlearningData.from_cohort(cohort, request, tokenizer, NAMED["small"].max_tokens)
            one = replace(params.training, epochs=1)
            log = train(
                build_model(NAMED["small"], len(cohort.classes), len(tokenizer), seed=0), data.retain,
                data.validation, one, seed=0, accelerator=accelerator, progress=False,
            ) if fraction in (FRACTIONS[0], FRACTIONS[-1]) else None  # fmt: skip
            if log is not None:
                epoch = log.seconds / len(data.retain)
            settings = replace(params.unlearning, stop="never")
            method = find(params.method)
            took = seconds(
                lambda data=data, method=method, settings=settings, model=model: method.unlearn(
                    model, data, settings, seed=0, accelerator=accelerator, progress=False
                )
            )
            retraining = epoch * len(data.retain) * params.training.epochs
            kind = f"{100 * fraction:g} %" if fraction in FRACTIONS else f"{FIXED} images"
            lines.append({"pairs": pairs, "request": kind, "retraining": retraining, "unlearning": took})
            print(f"{pairs} pairs, {kind}: {took:.1f} s, {took / retraining:.3f} of {retraining:.0f} s", flush=True)
    return pd.DataFrame(lines)


def rows() -> list[Row]:
    """Shares, and exponents b of seconds = a x pairs^b with the interval of the fit."""
    from scipy.stats import linregress

    table = measured()
    found = []
    for line in table.itertuples():
        if line.request.endswith("%"):
            share = line.unlearning / line.retraining
            found.append(Row("c", f"share of retraining, {line.request} of {line.pairs} pairs", share, share, share))
    for request, part in table.groupby("request", sort=False):
        fit = linregress(np.log(part.pairs), np.log(part.unlearning))
        interval = (fit.slope - 1.96 * fit.stderr, fit.slope + 1.96 * fit.stderr)
        found.append(Row("c", f"exponent of unlearning time, request of {request}", fit.slope, *interval))
    part = table[table.request == "10 %"]
    fit = linregress(np.log(part.pairs), np.log(part.retraining))
    found.append(Row("c", "exponent of retraining time", fit.slope, fit.slope - 1.96 * fit.stderr,
                     fit.slope + 1.96 * fit.stderr))  # fmt: skip
    return found
