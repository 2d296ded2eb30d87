"""A year of deletion requests under a policy: what it costs, how near the model stays to one that
never saw those who asked, and how long each of them can still be found."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from filelock import FileLock

from forget_mi.data import Cohort, Request, rows_of
from forget_mi.errors import InputError
from forget_mi.evaluation import mean_gap, patient_tests
from forget_mi.evaluation.wear import WearModel, signs_of_wear
from forget_mi.files import sha256_of_text, write_text
from forget_mi.models import Checkpoint
from forget_mi.runs import Run, load_model, load_references, run_salt, train_model
from forget_mi.runs.policies import QUARTER, Policy, period_ended, quick
from forget_mi.runs.salt import SALT
from forget_mi.studies.letters import DAYS, Letter
from forget_mi.studies.sequence import mark_served, serve_next
from forget_mi.studies.study import Study
from forget_mi.training import Predictions
from forget_mi.unlearning import References, parse_approach

LEVEL = 0.05
JUDGES = ("retrained-1", "retrained-2")
NEW_MODEL = "retrained-3"  # what a policy that retrains puts into use; it judges nobody
COLUMNS = (
    "policy", "seed", "week", "moment", "letters", "served", "waiting", "mean_gap", "retrain_gap",
    "lira_auc", "lira_patient_auc", "retrained_lira_auc", "retrained_lira_patient_auc", "found",
    "retrained_found", "test_auc", "retrained_test_auc", "retain_loss", "trainings",
    "trainings_of_references", "unlearning", "retrainings", "exposure_days", "alarms", "wear",
)  # fmt: skip


@dataclass(frozen=True)
class Retrained:
    """Models trained without some patients, below `folder`, each set of patients once: two judges,
    and what a policy puts into use."""

    study: Study
    folder: Path

    def run(self, served: Sequence[str]) -> Run:
        """The run folder of a set of patients."""
        name = sha256_of_text("\n".join(sorted(served)))[:12]
        own = self.study.run
        run = replace(own, folder=self.folder / name, params=replace(own.params, retrained=3))
        run.folder.mkdir(parents=True, exist_ok=True)
        write_text(run.folder / SALT, run_salt(own.folder) + "\n")
        return run

    def model(self, served: Sequence[str], name: str) -> Checkpoint:
        """One of JUDGES, or NEW_MODEL."""
        run, request = self.run(served), Request("served", tuple(sorted(served)))
        self._train(run, name, self.study.cohort, request)
        return load_model(run, name, self.study.cohort, finished=False)

    def references(self, served: Sequence[str]) -> References:
        """New reference models that never saw them."""
        run, request = self.run(served), Request("served", tuple(sorted(served)))
        cohort = mark_served(self.study.cohort, served)
        for name in run.reference_seeds():
            self._train(run, name, cohort, request)
        return load_references(run, cohort)

    def _train(self, run: Run, name: str, cohort: Cohort, request: Request) -> None:
        with FileLock(run.folder / f"{name}.lock"):  # another policy may train it now
            train_model(run, name, cohort, request, self.study.accelerator)


@dataclass
class Year:
    """A simulated year. study: the model as it is when the year begins. wear, threshold: of the
    alarm; without `wear` there is none."""

    study: Study
    approach: str
    settings: Any
    name: str
    policy: Policy
    letters: Sequence[Letter]
    folder: Path
    wear: WearModel | None = None
    threshold: float = 0.05
    _served: list[str] = field(default_factory=list)
    _since_retraining: list[str] = field(default_factory=list)
    _since_together: list[str] = field(default_factory=list)
    _requests: int = 0
    _trainings: float = 0.0
    _of_references: float = 0.0
    _unlearning: float = 0.0
    _retrainings: int = 0
    _alarms: int = 0

    def __post_init__(self):
        if self.policy.retrain == "alarm" and self.wear is None:
            raise InputError(f"policy {self.name}: asks for an alarm, which is not calibrated yet")
        self._now = self._before = self._trained = self.study
        self._fresh = self.study.original
        self._retrained = Retrained(self.study, self.folder)
        self._exposed = dict.fromkeys(self._everyone, 0.0)

    # ---- the year --------------------------------------------------------------------------------

    def run(self) -> pd.DataFrame:
        """A row a quarter, the columns of COLUMNS and the signs of wear. moment: 'in_use', or of a
        second row 'renewed', after what the policy does at the quarter's end by its calendar
        (training again, serving together): patients lived with the model before it. Costs are in
        trainings of the first model; unlearning: what of them unlearning took. exposure_days: days
        from a patient's letter on which an attacker who accuses 5 % of strangers finds them in the
        model in use, mean over those who wrote."""
        waiting: list[Letter] = []
        letters = list(self.letters)
        found = self._found_now()
        rows = []
        for day in range(DAYS + 1):
            while letters and letters[0].received <= day:
                waiting.append(letters.pop(0))
            changed = False
            while due := self.policy.due(waiting, day):
                waiting = [letter for letter in waiting if letter not in due]
                self._serve([p for letter in due for p in letter.patients])
                changed = True
            quarter = day > 0 and day % QUARTER == 0
            found = self._found_now() if changed else found
            if quarter:
                rows.append(self._row(int(day // 7), "in_use", waiting))
            if self._renew(day, quarter):
                found = self._found_now()
                if quarter:
                    rows.append(self._row(int(day // 7), "renewed", waiting))
            for letter in self.letters:
                if letter.received <= day < DAYS:
                    for patient in letter.patients:
                        self._exposed[patient] += float(found[patient])
        return pd.DataFrame(rows)

    def _renew(self, day: int, quarter: bool) -> bool:
        """Do what the policy does by its calendar; whether there was anything."""
        if quarter and self.policy.retrain == "quarterly" and self._since_retraining:
            self._retrain()
            return True
        together = self.policy.together
        if together and self._since_together and period_ended(together, day - 1, day):
            self._serve_together()
            return True
        return False

    def _serve(self, patients: Sequence[str]) -> None:
        self._requests += 1
        if self.policy.retrain == "instead":
            self._served += patients
            self._retrain()
            return
        before, settings = self._now, self.settings
        if self.policy.together:
            settings = replace(settings, **quick(settings))
            if not self._since_together:
                self._before = before
            self._since_together += patients
        if self.policy.afresh and not self.policy.together:
            self._unlearn(self._trained, [*self._since_retraining, *patients], settings)
        else:
            self._unlearn(before, patients, settings)
        self._served += patients
        self._since_retraining += patients
        self._retrain_if_worn()

    def _serve_together(self) -> None:
        """Serve everyone since the last time (or since the last training) once more, from the
        model as it was before them."""
        self._requests += 1
        if self.policy.afresh:
            self._unlearn(self._trained, self._since_retraining, self.settings)
        else:
            self._unlearn(self._before, self._since_together, self.settings)
        self._since_together = []
        self._retrain_if_worn()

    def _unlearn(self, now: Study, patients: Sequence[str], settings: Any) -> None:
        """Put into use what a request makes of a model that served everyone else served so far."""
        served = [each for each in self._served if each not in patients]
        request = Request(f"day-{self._requests}", tuple(patients))
        how = parse_approach(self.approach)[0], settings
        seed = self.study.run.original_seed + 20 * self._requests
        self._now, forgotten = serve_next(now, self.study.cohort, served, request, *how, seed=seed)
        spent = (forgotten.work, forgotten.work_of_references)
        own, of_references = (work / self._training_work for work in spent)
        self._trainings += own
        self._of_references += of_references
        self._unlearning += own + of_references

    def _retrain_if_worn(self) -> None:
        if self.policy.retrain == "alarm" and self._wear() > self.threshold:
            self._alarms += 1
            self._retrain()

    def _retrain(self) -> None:
        """Put a model into use that was trained without everyone served so far; its references are
        new as well, where the method needs any."""
        share = 1 - self._share_of(self._served)
        self._trainings += share
        self._retrainings += 1
        references = self._now.references
        if self.policy.retrain != "instead" and references:
            references = self._retrained.references(self._served)
            self._of_references += self.study.one_off_trainings * share
        model = self._retrained.model(self._served, NEW_MODEL)
        self._now = self._trained = replace(self._now, original=model, references=references)
        self._fresh, self._since_retraining, self._since_together = model, [], []
        self.__dict__.pop("_fresh_sides", None)

    # ---- what is measured ------------------------------------------------------------------------

    def _row(self, week: int, moment: str, waiting: Sequence[Letter]) -> dict[str, Any]:
        row = {
            "policy": self.name,
            "seed": self.study.run.params.seed,
            "week": week,
            "moment": moment,
            "letters": sum(each.received < 7 * week for each in self.letters),
            "served": len(self._served),
            "waiting": sum(len(letter.patients) for letter in waiting),
            "trainings": self._trainings,
            "trainings_of_references": self._of_references,
            "unlearning": self._unlearning,
            "retrainings": self._retrainings,
            "exposure_days": self._exposure(week),
            "alarms": self._alarms,
        }
        if self._served:
            row |= self._closeness() | self._signs()
            row["wear"] = self._wear()
        return row

    def _closeness(self) -> dict[str, float]:
        """Against the judges, which were trained without everyone served so far."""
        request = Request("served", tuple(sorted(self._served)))
        whole = replace(self.study, request=request)
        mine = whole.measures(self._now.original)
        theirs = [whole.measures(self._retrained.model(self._served, name)) for name in JUDGES]
        mean = {name: float(np.mean([each[name] for each in theirs])) for name in theirs[0]}
        row = {
            "mean_gap": mean_gap(mine, theirs),
            "retrain_gap": mean_gap(theirs[0], theirs[1:]),
            "found": mine["patients_found_at_5pct"],
            "retrained_found": mean["patients_found_at_5pct"],
            "test_auc": mine["test_auc"],
            "retrained_test_auc": mean["test_auc"],
            "retain_loss": mine["retain_loss"],
        }
        if whole.shadows is not None:
            row |= {name: mine[name] for name in ("lira_auc", "lira_patient_auc")}
            row |= {f"retrained_{name}": mean[name] for name in ("lira_auc", "lira_patient_auc")}
        return row

    def _found_now(self) -> dict[str, bool]:
        """By patient of the year's letters, whether the test finds them in the model in use."""
        if not self._everyone:
            return {}
        whole = replace(self.study, request=Request("year", tuple(sorted(self._everyone))))
        test = patient_tests(whole.evidence(self._now.original))
        ids = pd.factorize(self.study.cohort.table.patient_id)[1]
        p = dict(zip(ids[test.patients.patient.astype(int)], test.patients.p, strict=True))
        return {patient: bool(p[patient] <= LEVEL) for patient in self._everyone}

    def _exposure(self, week: int) -> float:
        asked = [p for each in self.letters if each.received < 7 * week for p in each.patients]
        return float(np.mean([self._exposed[p] for p in asked])) if asked else float("nan")

    # ---- wear ------------------------------------------------------------------------------------

    def _signs(self) -> dict[str, float]:
        return signs_of_wear(
            *self._sides(self._now.original),
            *self._fresh_sides,
            self._share_of(self._since_retraining),
        )

    def _wear(self) -> float:
        return float("nan") if self.wear is None else self.wear.gap(self._signs())

    def _sides(self, model: Checkpoint) -> tuple[Predictions, Predictions]:
        """Of a model, on those who stay to the end of the year and on validation patients."""
        table = self.study.cohort.table
        train = rows_of(self.study.cohort, "train")
        asked = table.patient_id.iloc[train].isin(self._everyone).to_numpy()
        rows = train[~asked], rows_of(self.study.cohort, "validation")
        return tuple(self.study.predictions(model, each) for each in rows)

    @cached_property
    def _fresh_sides(self) -> tuple[Predictions, Predictions]:
        """Of the model that was trained last."""
        return self._sides(self._fresh)

    @property
    def _everyone(self) -> set[str]:
        return {patient for letter in self.letters for patient in letter.patients}

    @property
    def _training_work(self) -> float:
        """Records of a training of the first model."""
        epochs = self.study.run.params.training.epochs
        return float(len(rows_of(self.study.cohort, "train")) * epochs)

    def _share_of(self, patients: Sequence[str]) -> float:
        """Their share of the training records."""
        table = self.study.cohort.table.iloc[rows_of(self.study.cohort, "train")]
        return float(table.patient_id.isin(patients).mean())
