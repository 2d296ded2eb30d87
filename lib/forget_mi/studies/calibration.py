"""Is the test of one patient calibrated? `make calibration`: how often it accuses patients whom a
model never saw, and how often it finds those it knows.

The models are shadow models: each has seen one half of the cohort's patients and none of the other.
The first JUDGES of them judge, as shadow models do in an audit; each of the rest stands in for a
model at hand. Of the patients it never saw, as many as a run has are its strangers, and each other
one is a request of one patient; those it saw are the requests of an original that forgot nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from forget_mi import plots
from forget_mi.attacks import Evidence, margins, mean_where
from forget_mi.data import Cohort, Request, rows_of, split_by_patient
from forget_mi.errors import InputError
from forget_mi.evaluation import by_patient, patient_tests, rows_by_set
from forget_mi.plots import calibration as calibration_plots
from forget_mi.runs import (
    ROOT,
    Run,
    draw_salt,
    load_model,
    open_run,
    parallel_models,
    run_parallel,
    shadow_set,
    train_model,
    write_table,
)
from forget_mi.studies.documents import write_document_table
from forget_mi.studies.study import Study
from forget_mi.training import Predictions, Shadows, make_accelerator

JUDGES = 32


NUMBERS_OF_JUDGES = (0, 4, 8, 16, 32)


NUMBERS_OF_STRANGERS = (20, 40, 80)


RETRAININGS = 12


QUARTERS = ("least", "less", "more", "most")


class Case(NamedTuple):
    """A model at hand. judges, strangers: how many. kind: of the patients who are judged, 'never
    seen' or 'seen'."""

    model: int
    judges: int
    strangers: int
    kind: str


def patients_of_case(codes: np.ndarray, seen: np.ndarray, case: Case, seed: int) -> dict:
    """Which patients (codes of the table's rows) are forget, validation, test and retain in a case;
    seen (patients): whom the model knows. No side shares a patient."""
    rng = np.random.default_rng([seed, case.model, 89])
    unseen, known = (rng.permutation(np.flatnonzero(mask)) for mask in (~seen, seen))
    # The same patients are judged whatever the number of strangers.
    judged, strangers = unseen[: len(unseen) // 3], unseen[len(unseen) // 3 :]
    strangers = strangers[: case.strangers] if case.strangers else strangers
    half = len(known) // 2
    sides = {"forget": judged if case.kind == "never seen" else known[:half]}
    sides |= {"retain": known[half:], "validation": strangers[: len(strangers) // 3]}
    sides["test"] = strangers[len(strangers) // 3 :]
    return {side: np.flatnonzero(np.isin(codes, who)) for side, who in sides.items()}


def case_p_values(shadows: Shadows, codes: np.ndarray, case: Case, seed: int) -> pd.DataFrame:
    """A row a judged patient of a case: the case's columns, records, p, p_remembered, p_pushed, and
    memorised, how far their mean margin lies above that of judging models that never saw them."""
    seen = np.zeros(codes.max() + 1, dtype=bool)
    seen[codes[shadows.member[case.model]]] = True
    sides = patients_of_case(codes, seen, case, seed)
    everyone = shadows.predictions[case.model]
    judges = first_models(shadows, case.judges) if case.judges else None
    evidence = Evidence(
        **{side: everyone.select(rows) for side, rows in sides.items()},
        shadows=judges and {side: judges.select(rows) for side, rows in sides.items()},
    )
    table = patient_tests(evidence).patients[
        ["patient", "records", "p", "p_remembered", "p_pushed"]
    ]
    strength = memorised(evidence.forget, first_models(shadows, JUDGES).select(sides["forget"]))
    table = table.assign(memorised=table.patient.map(strength))
    return table.assign(strangers_there=len(np.unique(codes[sides["validation"]]))
                        + len(np.unique(codes[sides["test"]])), **case._asdict())  # fmt: skip


def memorised(predictions: Predictions, judges: Shadows) -> dict[int, float]:
    """By patient, the mean over their records of the margin less what it is to models that never
    saw them."""
    found = np.stack([margins(p, "fused") for p in judges.predictions])
    above = margins(predictions, "fused") - mean_where(found, judges.stranger)
    means, who = by_patient(above, predictions.patients)
    return dict(zip(who.tolist(), means.tolist(), strict=True))


def first_models(shadows: Shadows, count: int) -> Shadows:
    """The first `count` of the models; they come in pairs of complements."""
    return Shadows(shadows.predictions[:count], shadows.member[:count], shadows.stranger[:count])


def cases(models: int, judges: int) -> Iterator[Case]:
    """Every model at hand with each number of judges (and all strangers), and with each number of
    strangers (with 16 judges, or all there are, and with none)."""
    for model in range(judges, models):
        for kind in ("never seen", "seen"):
            for count in (n for n in NUMBERS_OF_JUDGES if n <= judges):
                yield Case(model, count, 0, kind)
            for strangers in NUMBERS_OF_STRANGERS:
                for count in (0, min(16, judges)):
                    yield Case(model, count, strangers, kind)


def retrained_p_values(run: Run, count: int, folder: Path) -> pd.DataFrame:
    """`count` requests of one patient each, to as many models that were truly retrained without
    them: patient, judges, p, p_remembered, p_pushed. The models are trained below `folder` where
    they are not there yet."""
    draw_salt(folder)
    cohort = split_by_patient(run.source(), run.params.split)
    patients = cohort.table.patient_id.iloc[rows_of(cohort, "train")].unique()
    chosen = np.random.default_rng([run.params.seed, 97]).permutation(patients)[:count]
    ask = partial(_retrained, run=run, cohort=cohort, folder=folder)
    return pd.concat(run_parallel(ask, list(map(str, chosen)), run.params.device))


def _retrained(patient: str, run: Run, cohort: Cohort, folder: Path) -> pd.DataFrame:
    request = Request(f"only-{patient}", (patient,))
    alone = replace(run.params, retrained=1)
    here = Run(folder / patient, alone)
    threads = run.params.device.threads if parallel_models(run.params.device) > 1 else None
    accelerator = make_accelerator(run.params.device, threads=threads)
    train_model(here, "retrained-1", cohort, request, accelerator)
    model = load_model(here, "retrained-1", cohort, finished=False)
    shadows = shadow_set(run, cohort).shadows()
    study = Study(here, cohort, request, accelerator, model, None, shadows)
    lines = []
    for judges in (0, 16):
        sides = rows_by_set(cohort, request)
        few = first_models(shadows, judges)
        some = {side: few.select(rows) for side, rows in sides.items()} if judges else None
        evidence = replace(study.evidence(model), shadows=some)
        lines.append(patient_tests(evidence).patients.assign(judges=judges, kind="retrained"))
    return pd.concat(lines)[["judges", "kind", "p", "p_remembered", "p_pushed"]]


def calibration_table(p: pd.DataFrame, group: list[str]) -> pd.DataFrame:
    """A row a group: patients, models, and which share of p, p_remembered and p_pushed is at most
    .05 and .01 (at_5pct, remembered_at_5pct, pushed_at_5pct, ...)."""
    rows = []
    for key, part in p.groupby(group, sort=False, dropna=False):
        row = dict(zip(group, key, strict=True))
        row |= {"patients": len(part), "models": part.model.nunique() if "model" in part else 0}
        for column, name in (("p", ""), ("p_remembered", "remembered_"), ("p_pushed", "pushed_")):
            for at in (0.05, 0.025, 0.01, 0.001):
                row[f"{name}at_{100 * at:g}pct"] = float((part[column] <= at).mean())
        rows.append(row)
    return pd.DataFrame(rows)


def rebuild_calibration(profile: str, overrides: Mapping[str, Any], models: int) -> None:
    """The whole study of a profile: figures/calibration.csv (and calibration_<profile>.csv of any
    but demo), the picture and the table of the docs. models: shadow models in all, trained before;
    two thirds judge, the rest are the models at hand.

    Raises InputError where the shadow models have not been trained.
    """
    run = open_run(profile, overrides={**overrides, "shadows.count": models})
    cohort = run.source()
    shadows = shadow_set(run, cohort).shadows()
    judges = min(JUDGES, 2 * models // 3 // 2 * 2)
    if models - judges < 2:
        raise InputError(f"parameter models = {models}: allowed are 6 and more")
    codes = pd.factorize(cohort.table.patient_id)[0]
    ask = partial(case_p_values, shadows, codes, seed=run.params.seed)
    p = pd.concat([ask(case) for case in cases(models, judges)], ignore_index=True)
    own = profile == "demo"
    parts = [calibration_table(p, ["kind", "judges", "strangers_there"])]
    seen = p[(p.kind == "seen") & (p.strangers == 0)]
    seen = seen.assign(memorised=pd.qcut(seen.memorised, 4, labels=QUARTERS).astype(str))
    parts.append(calibration_table(seen, ["kind", "judges", "memorised"]))
    retrained = pd.DataFrame()
    if own:
        folder = ROOT / "runs" / "calibration"
        retrained = retrained_p_values(run, RETRAININGS, folder)
        parts.append(calibration_table(retrained, ["kind", "judges"]))
    table = pd.concat(parts, ignore_index=True)
    name = "calibration" if own else f"calibration_{profile}"
    write_table(ROOT / "figures" / f"{name}.csv", table)
    if own:
        plots.set_style()
        figure = calibration_plots.calibration(p, retrained)
        figure.savefig(ROOT / "figures" / "calibration.png")
    write_document_table(name, document_rows(table))


def document_rows(table: pd.DataFrame) -> pd.DataFrame:
    """The docs' form of the table: a row a number of judges and of strangers."""
    lines = []
    whole = table[table.memorised.isna()] if "memorised" in table else table
    for row in whole.to_dict("records"):
        there = row.get("strangers_there", np.nan)
        lines.append(
            {
                "patients": row["kind"],
                "shadow models": str(int(row["judges"])),
                "strangers": "" if np.isnan(there) else str(int(there)),
                "judged": str(row["patients"]),
                "p at most .05": f"{row['at_5pct']:.3f}",
                ".01": f"{row['at_1pct']:.3f}",
                "all looks: .05": f"{row['remembered_at_5pct']:.3f}",
                "all looks: .01": f"{row['remembered_at_1pct']:.3f}",
                "pushed: .05": f"{row['pushed_at_5pct']:.3f}",
            }
        )
    return pd.DataFrame(lines)
