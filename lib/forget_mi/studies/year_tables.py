"""`make year`: the simulated year under every policy, the alarm's calibration, and their tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
from filelock import FileLock
from scipy.stats import spearmanr

from forget_mi import plots
from forget_mi.data import Cohort, make_request, split_by_patient
from forget_mi.evaluation.wear import SIGNS, WearModel
from forget_mi.files import sha256_of_text, write_text
from forget_mi.plots import year as year_plots
from forget_mi.runs import ROOT, Run, draw_salt, open_run, run_parallel, tuned_by, write_table
from forget_mi.runs.policies import POLICIES, QUARTER, Alarm, get_policy, load_alarm
from forget_mi.source_code import code_fingerprint
from forget_mi.studies.costs import AT_EACH
from forget_mi.studies.documents import with_earlier_rows, write_document_table
from forget_mi.studies.letters import DAYS, Letter, LetterConfig, draw_letters
from forget_mi.studies.study import Study, approach_settings, train_study
from forget_mi.studies.year import COLUMNS, Year

APPROACH = "held_out_targets"
THRESHOLD = 0.05  # of the estimated gap, above which the alarm says 'retrain'
# The policies whose models the alarm is calibrated on, on tuning seeds: as many patients are served
# by each, and the models are worn, less worn, and hardly worn.
CALIBRATES = ("at_once", "at_once-together", "monthly-afresh")
ALARM = (*COLUMNS, *SIGNS)
QUARTER_WEEKS = int(QUARTER // 7)
DOCUMENTED = ("demo", "medpix")  # profiles whose tables stand in docs/year.md


@dataclass(frozen=True)
class YearJob:
    """A seed's year under a policy. Jobs share the models that are trained, below `folder`."""

    profile: str
    overrides: Mapping[str, Any]
    seed: int
    policy: str
    folder: Path
    alarm: Alarm | None

    def run(self) -> pd.DataFrame:
        """Its rows; those of a year that was simulated by this code already are read."""
        made_of = code_fingerprint("studies.year", f"unlearning.{APPROACH}")
        if POLICIES[self.policy].retrain == "alarm":
            made_of += "-" + sha256_of_text(repr(self.alarm))[:6]
        path = self.folder / "rows" / f"seed{self.seed}-{self.policy}-{made_of}.csv"
        if not path.is_file():
            write_text(path, self._simulate().to_csv(index=False))
        return pd.read_csv(path)

    def retraining_at_each(self) -> dict[int, float]:
        """By week of a quarter's end, the trainings that retraining at each letter takes by then.
        Nothing is trained for it."""
        cohort = self._cohort(self._run())
        patients = cohort.table.patient_id[cohort.table.split == "train"]
        gone, costs = set(), []
        for letter in self._letters(cohort):
            gone |= set(letter.patients)
            costs.append((letter.received, 1 - float(patients.isin(gone).mean())))
        weeks = range(QUARTER_WEEKS, DAYS // 7 + 1, QUARTER_WEEKS)
        return {week: sum(cost for day, cost in costs if day <= 7 * week) for week in weeks}

    def _simulate(self) -> pd.DataFrame:
        study = self._study()
        letters = self._letters(study.cohort)
        settings = approach_settings(APPROACH, tuned_by(self.profile))
        how = (self.policy, POLICIES[self.policy], letters, self._trained / "without")
        if self.alarm is None:
            return Year(study, APPROACH, settings, *how).run()
        wear = WearModel(self.alarm.coefficients)
        return Year(study, APPROACH, settings, *how, wear, self.alarm.threshold).run()

    @property
    def _trained(self) -> Path:
        return self.folder / f"seed{self.seed}"

    def _letters(self, cohort: Cohort) -> list[Letter]:
        train = cohort.table[cohort.table.split == "train"]
        return draw_letters(sorted(train.patient_id.unique()), LetterConfig(), self.seed)

    def _run(self) -> Run:
        changes = {
            # Without them there is no LiRA; the alarm's calibration asks for none.
            "shadows.missing": "leave_out" if self.alarm is None else "train",
            **self.overrides,
            "seed": self.seed,
            "request.fraction": 0.1,
            "retrained": 0,  # the judges are trained for each quarter's patients, below `without`
        }
        return open_run(self.profile, self._trained, changes)

    def _cohort(self, run: Run) -> Cohort:
        return split_by_patient(run.source(), run.params.split)

    def _study(self) -> Study:
        run = self._run()
        cohort = self._cohort(run)
        run.folder.mkdir(parents=True, exist_ok=True)
        with FileLock(run.folder / "training.lock"):  # another policy's job may train them now
            return train_study(run, cohort, make_request(cohort, run.params.request))


def rebuild_year(
    profile: str, overrides: Mapping[str, Any] | None = None, policies: Sequence[str] = ()
) -> pd.DataFrame:
    """figures/year.csv (a row a policy, seed and quarter), params/wear/<profile>.yaml (the alarm,
    where it is not there yet) and figures/year_calibration.csv (the years of the tuning seeds that
    it is from), figures/year_alarm.csv, pictures, and the tables of docs/year.md. Of another
    profile than demo: figures/year_<profile>.csv and so on.

    policies: some of POLICIES, or all; rows of the others stay in the table, so that a year can be
    simulated in parts. Raises InputError for one that is not there.
    """
    names = tuple(policies) or tuple(POLICIES)
    for name in names:
        get_policy(name)
    run = open_run(profile, overrides=overrides)
    folder = ROOT / "runs" / "year" / run.params.profile
    draw_salt(folder)
    job = partial(YearJob, profile, dict(overrides or {}), folder=folder)
    device = run.params.device
    own, figures = run.params.profile, ROOT / "figures"
    name = "year" if own == "demo" else f"year_{own}"
    alarm = load_alarm(profile)
    if alarm is None:
        seeds = run.params.tuning.seeds
        tuning = [job(seed, name, alarm=None) for name in CALIBRATES for seed in seeds]
        years = pd.concat(run_parallel(YearJob.run, tuning, device), ignore_index=True)
        write_table(figures / f"{name}_calibration.csv", years.reindex(columns=list(ALARM)))
        alarm = calibrate(years)
        alarm.save(profile)
    wear = WearModel(alarm.coefficients)
    jobs = [job(seed, name, alarm=alarm) for name in names for seed in run.params.sweep.beyond]
    rows = pd.concat(run_parallel(YearJob.run, jobs, device), ignore_index=True)
    rows = rows.reindex(columns=list(ALARM))
    seeds = run.params.sweep.beyond
    each = {seed: job(seed, names[0], alarm=alarm).retraining_at_each() for seed in seeds}
    rows[AT_EACH] = [each[seed][week] for seed, week in zip(rows.seed, rows.week, strict=True)]
    rows["wear"] = [
        wear.gap(row) if row["served"] else float("nan") for row in rows.to_dict("records")
    ]
    rows = with_earlier_rows(rows, figures / f"{name}.csv", ["policy", "seed"])
    write_table(figures / f"{name}.csv", rows)
    quality = alarm_quality(rows, alarm.threshold)
    write_table(figures / f"{name}_alarm.csv", quality)
    plots.set_style()
    year_plots.policies(rows).savefig(figures / f"{name}.png")
    year_plots.alarm(rows, alarm.threshold).savefig(figures / f"{name}_alarm.png")
    if own in DOCUMENTED:
        write_document_table(name, year_table(rows))
        write_document_table(f"{name}_alarm", quality.round(3).astype(str))
    return rows


def calibrate(years: pd.DataFrame) -> Alarm:
    """The alarm from years whose gap was measured."""
    known = years[years.mean_gap.notna()]
    return Alarm(THRESHOLD, WearModel.fit(known, known.mean_gap).coefficients)


def alarm_quality(rows: pd.DataFrame, threshold: float) -> pd.DataFrame:
    """One row: over the quarters of all policies that unlearn, the rank correlation of the
    estimated and the measured gap, and at the threshold the shares of missed and false alarms, and
    of missed ones above twice the threshold."""
    seen = rows[rows.mean_gap.notna() & ~rows.policy.str.startswith("retrain")]
    worn, called = seen.mean_gap > threshold, seen.wear > threshold
    badly = seen.mean_gap > 2 * threshold
    return pd.DataFrame(
        [
            {
                "models": len(seen),
                "rank_correlation": float(spearmanr(seen.wear, seen.mean_gap).statistic),
                "missed": _share(~called[worn]),
                "false": _share(called[~worn]),
                "missed_above_twice": _share(~called[badly]),
            }
        ]
    )


def year_table(rows: pd.DataFrame) -> pd.DataFrame:
    """The page's table: a row a policy at the end of the year, means over seeds. gap, LiRA: of the
    model in use; largest: the largest gap of the four quarters; renewed: right after what the
    policy does by its calendar at the year's end, where it does anything. 'of retraining at each':
    both costs, in those of retraining at each letter."""
    in_use = rows[rows.moment == "in_use"]
    ends = rows[rows.week == rows.week.max()]
    costs = ends.groupby(["policy", "seed"], sort=False).last()
    costs = costs.groupby("policy", sort=False).mean(numeric_only=True)
    last, renewed = (
        ends[ends.moment == moment].groupby("policy").mean(numeric_only=True).reindex(costs.index)
        for moment in ("in_use", "renewed")
    )
    total = costs.trainings + costs.trainings_of_references
    worst = in_use.groupby(["policy", "seed"]).mean_gap.max().groupby("policy").mean()
    columns = {
        "policy": list(costs.index),
        "seeds": [str(rows[rows.policy == name].seed.nunique()) for name in costs.index],
        "trainings": _numbers(costs.trainings, 2),
        "of references": _numbers(costs.trainings_of_references, 2),
        "of retraining at each": _numbers(total / costs[AT_EACH], 2),
        "exposure, days": _numbers(last.exposure_days, 1),
        "gap": _numbers(last.mean_gap, 3),
        "largest": _numbers(worst[costs.index], 3),
        "renewed": _numbers(renewed.mean_gap, 3),
        "retrained's": _numbers(last.retrain_gap, 3),
        "LiRA": _numbers(last.lira_auc, 2),
        "by patient": _numbers(last.lira_patient_auc, 2),
        "renewed, LiRA": _numbers(renewed.lira_auc, 2),
        "retrained's LiRA": _numbers(last.retrained_lira_auc, 2),
        "test AUC": _numbers(last.test_auc, 3),
        "alarms": _numbers(last.alarms, 1),
    }
    return pd.DataFrame(columns)


def _numbers(values: pd.Series, digits: int) -> list[str]:
    """As text; empty where there is none."""
    return ["" if pd.isna(value) else f"{value:.{digits}f}" for value in values]


def _share(found: pd.Series) -> float:
    return float(found.mean()) if len(found) else 0.0
