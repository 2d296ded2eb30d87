"""Past the paper: the studies behind notebook 06 and figures/beyond.csv, each a table made by one command.

A study takes a seed of the sweep and its requests: F_og, the models retrained without the request, the reference models
that teach, and shadow models that judge. The retrained models only ever judge.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from accelerate import Accelerator

from forget_mi import unlearning
from forget_mi.attacks import Evidence, iam, lira, margins, ruli
from forget_mi.attacks.evaluate import at_level, patients_of
from forget_mi.attacks.klom import klom
from forget_mi.audit import CLOSENESS, COMPARED, FORGOTTEN, SETS, mean_gap, measures_of, rows_by_set
from forget_mi.batches import make_examples
from forget_mi.checkpoints import Checkpoint
from forget_mi.cohorts.base import Cohort
from forget_mi.errors import InputError
from forget_mi.metrics import Predictions, binary_auc, predict
from forget_mi.models import ImageTextModel
from forget_mi.references import Forgot, References, forget_in_references
from forget_mi.roc import Roc, by_patient
from forget_mi.runs import Run, open_run
from forget_mi.shadows import Shadows
from forget_mi.splits import Request, make_request, rows_of, split_by_patient
from forget_mi.sweep import Sweep
from forget_mi.unlearning import UnlearningData

TPR = 0.01


class Forgotten(NamedTuple):
    """F_ul, the references afterwards by name (empty where the method needs none), and what each cost: seconds, and
    work in records that went forward and backward."""

    model: ImageTextModel
    references: Mapping[str, Forgot]
    seconds: float
    work: float

    @property
    def work_of_references(self) -> float:
        """What it cost the references to forget."""
        return sum(each.log.work for each in self.references.values() if each.log)


@dataclass(frozen=True)
class Study:
    """A run whose models are trained, and one request to them. original, references: as they are when the request comes
    in. shadows: what the judging models say of every row of the cohort, or None."""

    run: Run
    cohort: Cohort
    request: Request
    accelerator: Accelerator
    original: Checkpoint
    references: References
    shadows: Shadows | None

    @classmethod
    def open(cls, run: Run, cohort: Cohort | None = None, request: Request | None = None) -> Study:
        """Of a run with a finished 02_train, or of a cohort and request whose models `run.train` has made."""
        cohort = run.cohort() if cohort is None else cohort
        request = run.request() if request is None else request
        accelerator = run.accelerator()
        return cls(
            run, cohort, request, accelerator, run.trained("original", cohort), run.references(cohort),
            run.shadows(cohort, accelerator),
        )  # fmt: skip

    @property
    def data(self) -> UnlearningData:
        """What a method is given, without teachers."""
        saved = self.original
        return UnlearningData.from_cohort(self.cohort, self.request, saved.tokenizer, saved.model.max_tokens)

    @property
    def retraining_work(self) -> float:
        """Records that training on D_r takes forward and backward."""
        return float(len(self.request.retain_rows(self.cohort)) * self.run.params.training.epochs)

    @property
    def one_off_trainings(self) -> float:
        """What the reference models cost to make, once for all requests, in trainings of F_og (by records seen)."""
        train = self.cohort.table.iloc[rows_of(self.cohort, "train")]
        patients = train.patient_id.map(self.references.hashed)
        return float(sum(patients.isin(saw).sum() for saw in self.references.saw.values()) / len(train))

    def forget(self, method: str, settings: Any, *, seed: int | None = None, alone: bool = False) -> Forgotten:
        """Serve the request by a method; the references forget as well where it learns from them, unless `alone`."""
        seed = self.run.original_seed if seed is None else seed
        how = {"accelerator": self.accelerator}
        teaching = unlearning.needs_references(method, getattr(settings, "setting", None))
        data = self.references.teach(self.data, self.cohort) if teaching else self.data
        model, log = unlearning.find(method).unlearn(
            self.original.model, data, settings, seed=seed, progress=False, **how
        )
        forgot = {}
        if teaching and not alone:
            arguments = (self.references, self.cohort, self.request, method, settings)
            forgot = forget_in_references(*arguments, seed=seed, **how)
        return Forgotten(model, forgot, log.seconds, log.work)

    @cached_property
    def retrained(self) -> list[dict[str, float]]:
        """The measures of each retrained model."""
        return [self.measures(self.run.trained(name, self.cohort)) for name in self.run.retrained_seeds()]

    def measures(self, model: Checkpoint | ImageTextModel) -> dict[str, float]:
        """Of a model: CLOSENESS, and where there are shadow models LiRA
        of D_f against D_t on the fused prediction: lira_auc, lira_patient_auc and lira_tpr_at_1pct_fpr."""
        evidence = self.evidence(model)
        sides = {side: getattr(evidence, side) for side in SETS}
        found = {(m.name, tower): m for tower in ("fused", "image") for m in measures_of(sides, tower)}
        row = {name: found[COMPARED[name]].value() for name in CLOSENESS}
        row["retain_loss"] = found["retain_loss", "fused"].value()
        if self.shadows is not None:
            scores = lira.attack(evidence, "fused")
            row["lira_auc"] = binary_auc(*scores)
            row["lira_patient_auc"] = binary_auc(*at_level(scores, patients_of(evidence), "patient")[0])
            row["lira_tpr_at_1pct_fpr"] = float(Roc(*scores).tpr_at_fpr(TPR))
        return row

    def evidence(self, model: Checkpoint | ImageTextModel) -> Evidence:
        """What an attacker sees of a model."""
        rows = rows_by_set(self.cohort, self.request)
        seen = {side: self.says(model, rows[side]) for side in SETS}
        sides = ("forget", "validation", "test")
        shadows = self.shadows and {side: self.shadows.of(rows[side]) for side in sides}
        return Evidence(*(seen[side] for side in SETS), shadows=shadows)

    def says(self, model: Checkpoint | ImageTextModel, rows: np.ndarray) -> Predictions:
        """What a model says of some rows (one without a tokenizer of its own has F_og's)."""
        saved = model if isinstance(model, Checkpoint) else Checkpoint(model, self.original.tokenizer, {})
        examples = make_examples(self.cohort, rows, saved.tokenizer, saved.model.max_tokens)
        return predict(saved.model, examples, self.accelerator)

    def row(self, approach: str, forgotten: Forgotten, **more: Any) -> dict[str, Any]:
        """A line of a table: who, the measures, mean_gap (mean absolute difference over CLOSENESS to the mean of the
        retrained models), share_of_retraining (of its work: the same on every machine), share_of_references (what their
        forgetting cost beside it), one_off_trainings, seconds."""
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
        return {"approach": approach, "seed": self.run.params.seed, "forget_fraction": fraction, **more}

    def gold_rows(self) -> list[dict[str, Any]]:
        """A line for F_og, and one a retrained model, with its gap to the mean of the others."""
        others = [[row for row in self.retrained if row is not own] for own in self.retrained]
        lines = [
            self.about("retrained") | row | {"mean_gap": mean_gap(row, rest), "share_of_retraining": 1.0}
            for row, rest in zip(self.retrained, others, strict=True)
        ]
        known = self.measures(self.original)
        return [self.about("original") | known | {"mean_gap": mean_gap(known, self.retrained)}, *lines]


def settings_of(run: Run, approach: str, tuned: str | None, **changes: Any) -> Any:
    """The settings of an approach: what was tuned for it, with changes."""
    from forget_mi.params import build
    from forget_mi.profiles import unlearning_values, with_approach

    method, values = unlearning_values(with_approach(approach, tuned)["unlearning"] | changes)
    return build(unlearning.find(method).Config, values, "unlearning")


# ---- equal budgets --------------------------------------------------------------------------------------------------


def within_budgets(
    study: Study, approach: str, settings: Any, budgets: Sequence[float]
) -> dict[float, Forgotten | None]:
    """The approach with as many epochs as each share of retraining's work allows, its stop rule off; None where not
    even one does. Two short runs say what an epoch costs. The references take no part: this is about the model."""
    method = unlearning.parts_of(approach)[0]
    long = {"stop": "never"} if getattr(settings, "stop", "never") != "never" else {}
    if not hasattr(settings, "epochs"):
        found = study.forget(method, settings)
        return {budget: found if found.work <= budget * study.retraining_work else None for budget in budgets}

    def run(epochs: int) -> Forgotten:
        return study.forget(method, replace(settings, epochs=epochs, **long), alone=True)

    one, two = run(1).work, run(2).work
    affordable = {b: 1 + math.floor((b * study.retraining_work - one) / max(two - one, 1e-9)) for b in budgets}
    return {budget: run(epochs) if epochs >= 1 else None for budget, epochs in affordable.items()}


def frontier(study: Study, tuned: str | None, approaches: Sequence[str], budgets: Sequence[float]) -> pd.DataFrame:
    """A row an approach and budget: the columns of `Study.row`, and budget."""
    rows = [{**line, "budget": np.nan} for line in study.gold_rows()]
    for approach in approaches:
        settings = settings_of(study.run, approach, tuned)
        for budget, found in within_budgets(study, approach, settings, budgets).items():
            if found is not None:
                rows.append(study.row(approach, found, budget=budget))
    return pd.DataFrame(rows)


# ---- what helps, and what does not ----------------------------------------------------------------------------------

ABLATIONS: dict[str, dict[str, Any]] = {
    "as it is": {},
    "constant rate": {"schedule": "constant"},
    "batch norm frozen": {"batch_norm": "frozen"},
    "half the rate": {"learning_rate": 0.5},
    "twice the rate": {"learning_rate": 2.0},
    "small batches": {"batch_size": 4},
    "large batches": {"batch_size": 16},
    "half the retained records": {"retain_batch": 0.5},
    "twice the retained records": {"retain_batch": 2.0},
    "without labels": {"labels": 0.0},
    "without the squared difference": {"squared": 0.0},
    "half the epochs": {"epochs": 0.5},
    "twice the epochs": {"epochs": 2.0},
}
MORE_FOLDS = 4
RELATIVE_CHANGES = ("learning_rate", "retain_batch", "epochs")


def changed(settings: Any, change: Mapping[str, Any]) -> Any:
    """Settings with a change of ABLATIONS; those of RELATIVE_CHANGES multiply."""
    values = {}
    for name, value in change.items():
        now = getattr(settings, name)
        product = now * value if name in RELATIVE_CHANGES else value
        values[name] = max(1, round(product)) if isinstance(now, int) and not isinstance(now, bool) else product
    return replace(settings, **values)


def ablation(study: Study, tuned: str | None) -> pd.DataFrame:
    """A row a change of ABLATIONS to held-out targets, and one with reference models on MORE_FOLDS folds: the columns
    of `Study.row`, and change."""
    settings = settings_of(study.run, "held_out_targets", tuned)
    tries = [(name, study, changed(settings, change)) for name, change in ABLATIONS.items()]
    tries.append((f"{MORE_FOLDS} folds", with_folds(study, MORE_FOLDS), settings))
    rows = []
    for name, each, how in tries:
        row = each.row("held_out_targets", each.forget("held_out_targets", how, alone=True), change=name)
        rows.append(row | {"one_off_trainings": each.one_off_trainings})
    return pd.DataFrame(rows)


def with_folds(study: Study, folds: int) -> Study:
    """The study with reference models on so many folds of the patients, in a run folder beside its own; they are
    trained where they are not there yet."""
    run, params = study.run, study.run.params
    beside = Run(
        run.folder.with_name(f"{run.folder.name}-{folds}-folds"),
        replace(params, references=replace(params.references, folds=folds)),
    )
    return train_study(beside, study.cohort, study.request)


# ---- one request after another --------------------------------------------------------------------------------------


def parts_of_request(cohort: Cohort, request: Request, parts: int, seed: int) -> list[Request]:
    """A request cut into parts by patient, of about as many images each.

    Raises InputError where it names fewer patients than parts.
    """
    if len(request.patients) < parts:
        raise InputError(f"request {request.name}: {len(request.patients)} patients can't be cut into {parts} requests")
    train = cohort.table.iloc[request.forget_rows(cohort)]
    images = train.groupby("patient_id", sort=False).size()
    order = np.random.default_rng([seed, 41]).permutation(images.index.to_numpy())
    found: list[list[str]] = [[] for _ in range(parts)]
    sizes = np.zeros(parts)
    for patient in sorted(order, key=lambda name: -images[name]):  # stable: ties in random order
        smallest = int(sizes.argmin())
        found[smallest].append(str(patient))
        sizes[smallest] += images[patient]
    return [Request(f"{request.name}-part{k + 1}", tuple(sorted(part))) for k, part in enumerate(found)]


def served(cohort: Cohort, patients: Sequence[str]) -> Cohort:
    """The cohort once some patients' requests were served: they are on no side that is learned from."""
    gone = cohort.table.patient_id.isin(patients)
    return replace(cohort, table=cohort.table.assign(split=cohort.table.split.where(~gone, FORGOTTEN)))


def sequence(study: Study, approach: str, settings: Any, parts: int) -> pd.DataFrame:
    """The study's request as `parts` requests, one after another, each served by what the one before left; a row a
    request.

    The columns of `Study.row`, all measured on the whole request's patients against models retrained without any of
    them (so only the last row is a fair distance), the shares of all requests so far, and request; and
    margin_over_retrained: mean margin on the patients of the requests served so far, less the retrained models' mean.
    """
    whole, now, done = study, study, []
    total, of_references = 0.0, 0.0
    everyone = whole.request.forget_rows(whole.cohort)
    golden = [whole.says(whole.run.trained(name, whole.cohort), everyone) for name in whole.run.retrained_seeds()]
    rows, seconds = [], 0.0
    for number, part in enumerate(parts_of_request(study.cohort, study.request, parts, study.run.params.seed), 1):
        now = replace(now, cohort=served(study.cohort, done), request=part)
        forgotten = now.forget(unlearning.parts_of(approach)[0], settings, seed=study.run.original_seed + 20 * number)
        done += part.patients
        total, seconds = total + forgotten.work, seconds + forgotten.seconds
        of_references += forgotten.work_of_references / whole.retraining_work
        now = replace(
            now,
            original=replace(now.original, model=forgotten.model),
            references=after(now.references, forgotten.references, part),
        )
        row = whole.row(approach, Forgotten(forgotten.model, {}, seconds, total), request=number)
        asked = whole.cohort.table.patient_id.iloc[everyone].isin(done).to_numpy()
        mine = margins(whole.says(forgotten.model, everyone), "fused")[asked].mean()
        theirs = np.mean([margins(each, "fused")[asked].mean() for each in golden]) if golden else np.nan
        row |= {"share_of_references": of_references, "margin_over_retrained": mine - theirs}
        rows.append(row | {"one_off_trainings": whole.one_off_trainings if forgotten.references else 0.0})
    return pd.DataFrame(rows)


def after(references: References, forgot: Mapping[str, Forgot], request: Request) -> References:
    """The references once a request was served."""
    gone = {references.hashed(patient) for patient in request.patients}
    return replace(
        references,
        checkpoints={n: replace(c, model=forgot[n].model) if n in forgot else c
                     for n, c in references.checkpoints.items()},
        saw={name: patients - gone for name, patients in references.saw.items()},
    )  # fmt: skip


# ---- can the references be told from clean ones? --------------------------------------------------------------------


def references_told(study: Study, forgotten: Forgotten) -> pd.DataFrame:
    """LiRA on each reference model before and after a request: D_f as far as it knew it, against D_t. A row a reference
    and moment: reference, when (before, after), records, lira_auc, lira_patient_auc; .5 is a model that never had the
    patients."""
    rows = []
    for name, saved in study.references.checkpoints.items():
        patients = study.cohort.table.patient_id.map(study.references.hashed)
        known = patients.isin(study.references.saw[name]).to_numpy()
        forget = np.intersect1d(study.request.forget_rows(study.cohort), np.flatnonzero(known))
        test = rows_of(study.cohort, "test")
        if len(forget) == 0:
            continue
        for when, model in (("before", saved.model), ("after", forgotten.references[name].model)):
            seen = [study.says(replace(saved, model=model), side) for side in (forget, test)]
            scores = [lira.likelihood_ratio(p, study.shadows.of(side), "fused")
                      for p, side in zip(seen, (forget, test), strict=True)]  # fmt: skip
            by_one = [by_patient(s, p.patients)[0] for s, p in zip(scores, seen, strict=True)]
            rows.append({"reference": name, "when": when, "seed": study.run.params.seed, "records": len(forget),
                         "lira_auc": binary_auc(*scores), "lira_patient_auc": binary_auc(*by_one)})  # fmt: skip
    return pd.DataFrame(rows)


# ---- the same patient's other study ---------------------------------------------------------------------------------

OTHER = "other_study"


def hold_out_study(cohort: Cohort, seed: int) -> Cohort:
    """The split cohort with one study of each training patient who has several moved to the side `other_study`, which
    nothing is trained on."""
    rng = np.random.default_rng([seed, 43])
    train = cohort.table[cohort.table.split == "train"]
    studies = train.groupby("patient_id", sort=False).study_id.unique()
    away = {rng.choice(found) for found in studies if len(found) > 1}
    split = cohort.table.split.where(~cohort.table.study_id.isin(away), OTHER)
    return replace(cohort, table=cohort.table.assign(split=split))


def other_study_auc(study: Study, model: Checkpoint | ImageTextModel) -> float:
    """AUC of the margins of the forgotten patients' studies that were never trained on against those of D_t. .5: the
    model treats them as a stranger's."""
    asked = study.cohort.table.patient_id.isin(study.request.patients).to_numpy()
    others = np.flatnonzero(asked & (study.cohort.table.split == OTHER).to_numpy())
    sides = (others, rows_of(study.cohort, "test"))
    return binary_auc(*(margins(study.says(model, side), "fused") for side in sides))


# ---- many against many ----------------------------------------------------------------------------------------------


def many_against_many(
    originals: Sequence[np.ndarray], unlearned: Mapping[str, Sequence[np.ndarray]], retrained: Sequence[np.ndarray]
) -> pd.DataFrame:
    """Distributions over models, record by record. Margins: a list of arrays (records) a kind of model; of the
    retrained, twice as many as of the others, so that one half can be compared with the other.

    A row an approach (original and retrained included): klom_forget_mean, klom_forget_95 (95th percentile over the
    records), klom_forget_floor (retrained against retrained), and RULI's efficacy game (AUC of telling F_ul from F_re
    by a record's margin, .5 is perfect): ruli_efficacy_auc over all records, and _vulnerable over the tenth that the
    original has memorised most.
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


def completeness(study: Study, model: Checkpoint | ImageTextModel) -> np.ndarray:
    """IAM of each record of D_f (n)."""
    records = study.request.forget_rows(study.cohort)
    seen = [study.says(which, records) for which in (model, study.original)]
    return iam.completeness(*seen, study.shadows.of(records), "fused")


# ---- what it costs in a year ----------------------------------------------------------------------------------------


def yearly_cost(
    training_hours: float, price: float, requests: Sequence[int], *, share: float, of_references: float, one_off: float
) -> pd.DataFrame:
    """What deletion requests cost in the first year, in the currency of `price` (of a GPU hour): retraining at each
    request, retraining once a month for all that came in, and held-out targets. Index: requests a year.

    share, of_references: of a training, what a request costs the model and the reference models. one_off: trainings
    that the reference models cost once. Raises InputError for a number that is not positive.
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


# ---- the parts that make beyond runs --------------------------------------------------------------------------------

COMPARED_HERE = ("held_out_targets", "forget_mi-held_out", "forget_mi-multimodal", "forget_mi-no_noise", "fine_tune")
BUDGETS = (0.02, 0.05, 0.1, 0.2)
REQUESTS_IN_A_ROW = 10
FRONTIER = (*COMPARED_HERE, "neg_grad_plus", "scrub-last", "cf_k", "eu_k", "multi_delete", "salun", "ssd")
MANY = 20
# Chosen by what the originals of two unreported seeds (10, 11) say: with the demo's four images a patient they treat
# the studies held out much as a stranger's, whatever the share of label noise.
IMAGES_A_PATIENT = 8.0
PARTS = ("requests", "frontier", "ablation", "sequence", "other", "many")


def make_part(sweep: Sweep, part: str, seed: int, folder: Path) -> pd.DataFrame:
    """One of PARTS for one seed of a sweep, as a table; models of its own are trained below `folder`. ('many' has seeds
    of its own, and is made for the first seed only.)"""
    if part == "many":
        return many_part(sweep, folder / "many")
    if part == "other":
        return other_part(sweep, seed, folder / "other")
    fractions = sweep.grid.fractions if part == "requests" else [max(sweep.grid.fractions)]
    studies = [request_run(sweep, seed, fraction) for fraction in fractions]
    if part == "requests":
        return pd.concat([requests_part(study, sweep.tuned) for study in studies], ignore_index=True)
    make = {"frontier": frontier_part, "ablation": ablation, "sequence": sequence_part}[part]
    return make(studies[0], sweep.tuned)


def request_run(sweep: Sweep, seed: int, fraction: float) -> Study:
    """A seed and size of request of the sweep, as the sweep has it."""
    run = sweep.run(f"seed{seed}-{100 * fraction:g}pct")
    cohort = split_by_patient(run.source(), run.params.split)
    return train_study(run, cohort, make_request(cohort, run.params.request))


def frontier_part(study: Study, tuned: str | None) -> pd.DataFrame:
    """FRONTIER at each of BUDGETS."""
    return frontier(study, tuned, FRONTIER, BUDGETS)


def requests_part(study: Study, tuned: str | None) -> pd.DataFrame:
    """One request by each of COMPARED_HERE, with IAM (median over D_f) and, where references took part, what LiRA says
    of them after the request (the worse of them)."""
    rows = []
    for line, name in zip(study.gold_rows(), ["original", *study.run.retrained_seeds()], strict=True):
        found = float(np.nanmedian(completeness(study, study.run.trained(name, study.cohort))))
        rows.append(line | {"iam_median": found})
    for approach in COMPARED_HERE:
        found = study.forget(unlearning.parts_of(approach)[0], settings_of(study.run, approach, tuned))
        row = study.row(approach, found) | {"iam_median": float(np.nanmedian(completeness(study, found.model)))}
        if found.references:
            told = references_told(study, found)
            for when, group in told.groupby("when"):
                row[f"reference_lira_{when}"] = float(group.lira_auc.mean())
        rows.append(row)
    return pd.DataFrame(rows)


def sequence_part(study: Study, tuned: str | None) -> pd.DataFrame:
    """REQUESTS_IN_A_ROW requests one after another, by held-out targets and by Forget-MI."""
    return pd.concat(
        [
            sequence(study, approach, settings_of(study.run, approach, tuned), REQUESTS_IN_A_ROW)
            for approach in ("held_out_targets", "forget_mi-multimodal")
        ],
        ignore_index=True,
    )


def other_run(sweep: Sweep, seed: int, folder: Path) -> Study:
    """The sweep's largest request on a cohort whose noise belongs to the patient, with a study of each held out. A
    model has to meet a patient in some studies before it knows him in another, so there are IMAGES_A_PATIENT."""
    changes = {
        **sweep.overrides,
        "seed": seed,
        "request.fraction": max(sweep.grid.fractions),
        "cohort.noise_of": "patient",
        "cohort.images_per_patient": IMAGES_A_PATIENT,
        "shadows.count": 0,
    }
    run = open_run(sweep.profile, folder / f"seed{seed}", changes)
    cohort = split_by_patient(run.source(), run.params.split)
    return train_study(run, hold_out_study(cohort, seed), make_request(cohort, run.params.request))


def many_run(folder: Path, seed: int) -> Study:
    """The profile params/many.yaml with models of a seed, on one split and request."""
    run = open_run("many", folder / f"seed{seed}", {"seed": seed, "split.seed": 0, "request.seed": 0})
    cohort = split_by_patient(run.source(), run.params.split)
    return train_study(run, cohort, make_request(cohort, run.params.request))


def train_study(run: Run, cohort: Cohort, request: Request) -> Study:
    """The study of a run whose models are trained where they are not there yet."""
    for name in ("original", *run.retrained_seeds(), *run.reference_seeds()):
        run.train(name, cohort, request, run.accelerator())
    return Study.open(run, cohort, request)


def other_part(sweep: Sweep, seed: int, folder: Path) -> pd.DataFrame:
    """The same patient's other study; a row a model: the columns of `Study.row`, and other_study_auc."""
    study = other_run(sweep, seed, folder)
    rows = []
    for line, name in zip(study.gold_rows(), ["original", *study.run.retrained_seeds()], strict=True):
        rows.append(line | {"other_study_auc": other_study_auc(study, study.run.trained(name, study.cohort))})
    for approach in COMPARED_HERE:
        found = study.forget(unlearning.parts_of(approach)[0], settings_of(study.run, approach, sweep.tuned))
        rows.append(study.row(approach, found) | {"other_study_auc": other_study_auc(study, found.model)})
    return pd.DataFrame(rows)


def many_part(sweep: Sweep, folder: Path, models: int = MANY) -> pd.DataFrame:
    """MANY originals and twice as many retrained models, each original with references of its own; see
    `many_against_many`."""
    seen: dict[str, list[np.ndarray]] = {}
    for seed in range(models):
        study = many_run(folder, seed)

        def keep(name: str, model: Checkpoint | ImageTextModel, study: Study = study) -> None:
            seen.setdefault(name, []).append(
                margins(study.says(model, study.request.forget_rows(study.cohort)), "fused")
            )

        keep("original", study.original)
        for name in study.run.retrained_seeds():
            keep("retrained", study.run.trained(name, study.cohort))
        for approach in COMPARED_HERE:
            settings = settings_of(study.run, approach, sweep.tuned)
            keep(approach, study.forget(unlearning.parts_of(approach)[0], settings).model)
    # One half of the retrained models from each seed, so that no seed is on one side only.
    retrained = seen.pop("retrained")
    retrained = retrained[0::2] + retrained[1::2]
    return many_against_many(seen.pop("original"), seen, retrained)
