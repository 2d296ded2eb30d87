"""A study: a run whose models are trained, and one request to them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from accelerate import Accelerator

from forget_mi.attacks import Evidence, linear_probe, lira
from forget_mi.data import Cohort, Examples, Request, make_examples, rows_of
from forget_mi.evaluation import (
    CLOSENESS,
    COMPARED,
    SETS,
    Roc,
    after_training_on,
    at_level,
    mean_gap,
    measures_of,
    patient_tests,
    patients_found,
    patients_of,
    rows_by_set,
    trained_on,
)
from forget_mi.metrics import binary_auc
from forget_mi.models import Checkpoint, ImageTextModel
from forget_mi.runs import Run, load_model, load_references, shadow_predictions, train_model
from forget_mi.training import Predictions, Shadows, Sisa, make_accelerator, predict
from forget_mi.unlearning import (
    References,
    UnlearnedReference,
    UnlearningData,
    get_method,
    needs_references,
    unlearn_references,
)

TPR = 0.01


CAME_BACK = ("found_after_training_on", "lira_after_training_on")


class UnlearningResult(NamedTuple):
    """F_ul, the references afterwards by name (empty where the method needs none), and what each
    cost: seconds, and work in records that went forward and backward."""

    model: ImageTextModel
    references: Mapping[str, UnlearnedReference]
    seconds: float
    work: float

    @property
    def work_of_references(self) -> float:
        """What it cost the references to forget."""
        return sum(each.log.work for each in self.references.values() if each.log)


@dataclass(frozen=True)
class Study:
    """A run whose models are trained, and one request to them. original, references: as they are
    when the request comes in. shadows: the predictions of the judging models for every row of the
    cohort, or None."""

    run: Run
    cohort: Cohort
    request: Request
    accelerator: Accelerator
    original: Checkpoint
    references: References
    shadows: Shadows | None

    @classmethod
    def open(cls, run: Run, cohort: Cohort | None = None, request: Request | None = None) -> Study:
        """Of a run with a finished 02_train, or of a cohort and request whose models `run.train`
        has made."""
        cohort = run.cohort() if cohort is None else cohort
        request = run.request() if request is None else request
        accelerator = make_accelerator(run.params.device)
        return cls(
            run,
            cohort,
            request,
            accelerator,
            load_model(run, "original", cohort, finished=False),
            load_references(run, cohort),
            shadow_predictions(run, cohort, accelerator),
        )

    @property
    def data(self) -> UnlearningData:
        """What a method is given, without teachers."""
        saved = self.original
        return UnlearningData.from_cohort(
            self.cohort, self.request, saved.tokenizer, saved.model.max_tokens
        )

    @property
    def retraining_work(self) -> float:
        """Records that training on D_r takes forward and backward."""
        return float(len(self.request.retain_rows(self.cohort)) * self.run.params.training.epochs)

    @property
    def one_off_trainings(self) -> float:
        """What the reference models cost to make, once for all requests, in trainings of F_og (by
        records seen)."""
        train = self.cohort.table.iloc[rows_of(self.cohort, "train")]
        patients = train.patient_id.map(self.references.hashed)
        return float(
            sum(patients.isin(saw).sum() for saw in self.references.saw.values()) / len(train)
        )

    def forget(
        self, method: str, settings: Any, *, seed: int | None = None, alone: bool = False
    ) -> UnlearningResult:
        """Serve the request by a method; the references forget as well where it learns from them,
        unless `alone`."""
        seed = self.run.original_seed if seed is None else seed
        how = {"accelerator": self.accelerator}
        teaching = needs_references(method, getattr(settings, "setting", None))
        data = self.references.teach(self.data, self.cohort) if teaching else self.data
        model, log = get_method(method).unlearn(
            self.original.model, data, settings, seed=seed, progress=False, **how
        )
        unlearned_references = {}
        if teaching and not alone:
            arguments = (self.references, self.cohort, self.request, method, settings)
            unlearned_references = unlearn_references(*arguments, seed=seed, **how)
        return UnlearningResult(model, unlearned_references, log.seconds, log.work)

    @cached_property
    def retrained(self) -> list[dict[str, float]]:
        """The measures of each retrained model."""
        return [
            self.measures(load_model(self.run, name, self.cohort, finished=False))
            for name in self.run.retrained_seeds()
        ]

    def measures(self, model: Checkpoint | ImageTextModel | Sisa) -> dict[str, float]:
        """Of a model: CLOSENESS, the linear probe on each tower's embeddings (probe_auc_image and
        probe_auc_text), and where there are shadow models LiRA of D_f against D_t on the fused
        prediction: lira_auc, lira_patient_auc and lira_tpr_at_1pct_fpr."""
        evidence = self.evidence(model)
        sides = {side: getattr(evidence, side) for side in SETS}
        found = {
            (m.name, tower): m for tower in ("fused", "image") for m in measures_of(sides, tower)
        }
        row = {name: found[COMPARED[name]].value() for name in CLOSENESS}
        row["retain_loss"] = found["retain_loss", "fused"].value()
        row |= patients_found(patient_tests(evidence))
        for tower in (t for t in evidence.forget.towers if t != "fused"):
            row[f"probe_auc_{tower}"] = binary_auc(*linear_probe.attack(evidence, tower))
        if self.shadows is not None:
            scores = lira.attack(evidence, "fused")
            row["lira_auc"] = binary_auc(*scores)
            row["lira_patient_auc"] = binary_auc(
                *at_level(scores, patients_of(evidence), "patient")[0]
            )
            row["lira_tpr_at_1pct_fpr"] = float(Roc(*scores).tpr_at_fpr(TPR))
        return row

    def after_training_on(
        self,
        model: Checkpoint | ImageTextModel,
        *,
        epochs: Sequence[float] = (1,),
        optimizer: str = "adamw",
        learned: Examples | None = None,
    ) -> pd.DataFrame:
        """A row for 0 and each of `epochs` of training on some records (those who stay): the
        columns of `evaluation.after_training_on`."""
        saved = self._checkpoint(model)
        sets = {side: self.examples(saved, rows) for side, rows in self.rows.items()}
        how = {"seed": self.run.original_seed, "accelerator": self.accelerator}
        trained = trained_on(
            saved.model,
            sets["retain"] if learned is None else learned,
            self.run.params.training,
            epochs=epochs,
            optimizer=optimizer,
            **how,
        )
        how = (self.accelerator, self.shadows_by_side)
        rows, _ = after_training_on(saved.model, trained, sets, *how)
        return pd.DataFrame(rows)

    def came_back(self, model: Checkpoint | ImageTextModel) -> dict[str, float]:
        """found_after_training_on and lira_after_training_on, after an epoch."""
        last = self.after_training_on(model).iloc[-1]
        return {name: last[name] for name in CAME_BACK}

    @property
    def rows(self) -> dict[str, np.ndarray]:
        """Table rows by side of an Evidence."""
        return rows_by_set(self.cohort, self.request)

    @property
    def shadows_by_side(self) -> dict[str, Shadows] | None:
        """The predictions of the judging models by side of an Evidence."""
        return self.shadows and {
            side: self.shadows.select(rows) for side, rows in self.rows.items()
        }

    def _checkpoint(self, model: Checkpoint | ImageTextModel) -> Checkpoint:
        """One without a tokenizer of its own has F_og's."""
        return (
            model
            if isinstance(model, Checkpoint)
            else Checkpoint(model, self.original.tokenizer, {})
        )

    def examples(self, saved: Checkpoint, rows: np.ndarray) -> Examples:
        """Some rows, tokenised for a model."""
        return make_examples(self.cohort, rows, saved.tokenizer, saved.model.max_tokens)

    def evidence(self, model: Checkpoint | ImageTextModel | Sisa) -> Evidence:
        """What an attacker sees of a model."""
        rows = self.rows
        seen = {side: self.predictions(model, rows[side]) for side in SETS}
        return Evidence(*(seen[side] for side in SETS), shadows=self.shadows_by_side)

    def predictions(
        self, model: Checkpoint | ImageTextModel | Sisa, rows: np.ndarray
    ) -> Predictions:
        """A model's predictions for some rows; a model in shards answers with all of them."""
        if isinstance(model, Sisa):
            return model.predict(rows, self.accelerator)
        saved = self._checkpoint(model)
        return predict(saved.model, self.examples(saved, rows), self.accelerator)

    def row(self, approach: str, forgotten: UnlearningResult, **more: Any) -> dict[str, Any]:
        """A line of a table: who, the measures, mean_gap (mean absolute difference over CLOSENESS
        to the mean of the retrained models), share_of_retraining (of its work: the same on every
        machine), share_of_references (what their forgetting cost beside it), one_off_trainings,
        seconds."""
        measures = self.measures(forgotten.model)
        costs = {
            "mean_gap": mean_gap(measures, self.retrained),
            "share_of_retraining": forgotten.work / self.retraining_work,
            "share_of_references": forgotten.work_of_references / self.retraining_work,
            "one_off_trainings": self.one_off_trainings if forgotten.references else 0.0,
            "seconds": forgotten.seconds,
        }
        return self.about(approach, **more) | measures | costs

    def about(self, approach: str, **more: Any) -> dict[str, Any]:
        """Who a line is about."""
        fraction = self.run.params.request.fraction
        return {
            "approach": approach,
            "seed": self.run.params.seed,
            "forget_fraction": fraction,
            **more,
        }

    def baseline_rows(self) -> list[dict[str, Any]]:
        """A line for F_og, and one a retrained model, with its gap to the mean of the others."""
        others = [[row for row in self.retrained if row is not own] for own in self.retrained]
        lines = [
            self.about("retrained")
            | row
            | {"mean_gap": mean_gap(row, rest), "share_of_retraining": 1.0}
            for row, rest in zip(self.retrained, others, strict=True)
        ]
        known = self.measures(self.original)
        return [
            self.about("original") | known | {"mean_gap": mean_gap(known, self.retrained)},
            *lines,
        ]


def approach_settings(approach: str, tuned: str | None, **changes: Any) -> Any:
    """The settings of an approach: what was tuned for it, with changes."""
    from forget_mi.config import build
    from forget_mi.runs import approach_overrides, unlearning_values

    method, values = unlearning_values(approach_overrides(approach, tuned)["unlearning"] | changes)
    return build(get_method(method).Config, values, "unlearning")


def train_study(run: Run, cohort: Cohort, request: Request) -> Study:
    """The study of a run whose models are trained where they are not there yet."""
    for name in ("original", *run.retrained_seeds(), *run.reference_seeds()):
        train_model(run, name, cohort, request, make_accelerator(run.params.device))
    return Study.open(run, cohort, request)
