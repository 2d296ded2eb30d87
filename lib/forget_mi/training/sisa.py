"""SISA training: a model in shards, so that a request retrains only those that it touches
(Bourtoule et al., IEEE S&P 2021, arXiv 1912.03817).

Patients are cut into shards, each shard into slices. A shard's model is trained on its first slice,
then on the first two, and so on, and kept after each; what one patient asks for is retrained from
the state before the slice that they are in. Nothing of a shard depends on another, so the result is
exact: bit for bit the model that would have been trained without them. The answers of the shards'
models are averaged.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import pandas as pd
from accelerate import Accelerator
from pydantic import Field

from forget_mi.config import config
from forget_mi.data import Cohort, make_examples, rows_of
from forget_mi.errors import InputError
from forget_mi.files import sha256_of_text
from forget_mi.models import (
    Checkpoint,
    ModelConfig,
    build_model,
    build_tokenizer,
    load_checkpoint,
    save_checkpoint,
    vocabulary_size,
)
from forget_mi.source_code import code_fingerprint
from forget_mi.training.config import TrainingConfig
from forget_mi.training.loop import train
from forget_mi.training.prediction import Predictions, predict, softmax


@config
class SisaConfig:
    """shards, slices: how many. assignment: 'uniform' draws them; 'risk' puts those who are likely
    to ask together, in few shards and there in the last slices (their section VIII). seed: of the
    draw."""

    shards: Annotated[int, Field(ge=1, le=1000)] = 4
    slices: Annotated[int, Field(ge=1, le=1000)] = 4
    assignment: Literal["uniform", "risk"] = "uniform"
    seed: Annotated[int, Field(ge=0)] = 0


def assign_slices(
    cohort: Cohort, settings: SisaConfig, risk: Mapping[str, float] | None = None
) -> pd.DataFrame:
    """Where each training patient is: columns patient_id, shard and slice (both from 0), balanced
    over the patients' most frequent label.

    risk: by patient, how likely they are to ask; needed for assignment 'risk'.

    Raises InputError where a class has fewer patients than there are shards, so that a shard would
    not know it, and where risk misses a patient.
    """
    table = cohort.table.iloc[rows_of(cohort, "train")]
    label = table.groupby("patient_id", sort=False).label.agg(lambda labels: labels.mode().iloc[0])
    fewest = label.value_counts()
    if fewest.min() < settings.shards:
        rare = cohort.classes[int(fewest.idxmin())]
        raise InputError(
            f"parameter sisa.shards = {settings.shards}: class {rare!r} has {fewest.min()} "
            f"training patients, and each shard needs one; allowed are 1 to {fewest.min()}"
        )
    if settings.assignment == "risk":
        missing = label.index.difference(list(risk or {}))
        if len(missing):
            raise InputError(
                f"parameter sisa.assignment = 'risk': {len(missing)} training patients have no risk"
            )
    rng = np.random.default_rng([settings.seed, 41])
    parts, cells = [], settings.shards * settings.slices
    for _, patients in label.groupby(label):
        order = rng.permutation(patients.index.to_numpy())
        if settings.assignment == "risk":
            order = order[np.argsort([risk[patient] for patient in order], kind="stable")]
            # In order of risk, shard after shard, and within each slice after slice.
            cell = np.arange(len(order)) * cells // len(order)
        else:
            # Dealt on from class to class: no place is left empty while another has two.
            cell = (np.arange(len(order)) + sum(map(len, parts))) % cells
        parts.append(pd.DataFrame({"patient_id": order, "cell": cell}))
    places = pd.concat(parts, ignore_index=True)
    if settings.assignment == "uniform":
        # By shard first: each shard gets its share of every class.
        places["shard"], places["slice"] = (
            places.cell % settings.shards,
            places.cell // settings.shards,
        )
    else:
        places["shard"], places["slice"] = (
            places.cell // settings.slices,
            places.cell % settings.slices,
        )
    return _with_every_class(places.drop(columns="cell"), label, settings)


def _with_every_class(places: pd.DataFrame, label: pd.Series, settings: SisaConfig) -> pd.DataFrame:
    """Check that every shard has every class, and something in its first slice."""
    seen = places.assign(label=label.loc[places.patient_id].to_numpy())
    lacking = seen.groupby("shard").label.nunique() < label.nunique()
    empty = set(range(settings.shards)) - set(seen.shard[seen.slice == 0])
    if lacking.any() or empty:
        raise InputError(
            f"parameter sisa.slices = {settings.slices}: with {settings.shards} shards and "
            f"{len(places)} patients a shard has no patient in its first slice, or none of a "
            "class; fewer of either are needed"
        )
    return places


def epochs_a_stage(epochs: int, slices: int) -> int:
    """Epochs of each stage, so that all together take as many records as `epochs` passes over the
    shard would: 2 epochs / (slices + 1) (their section V)."""
    return max(1, round(2 * epochs / (slices + 1)))


@dataclass(frozen=True)
class Sisa:
    """A model in shards, in a folder: <folder>/shard-1/slice-2/ and so on, a checkpoint each. What
    has been made is kept as long as it belongs to the same patients, settings and seed."""

    folder: Path
    cohort: Cohort
    model: ModelConfig
    training: TrainingConfig
    settings: SisaConfig
    places: pd.DataFrame
    seed: int

    def train(
        self, accelerator: Accelerator, without: Collection[str] = (), progress: bool = True
    ) -> float:
        """Train what is not there yet, on all patients of `places` but those in `without`; the work
        in records, forward and backward.

        To serve a request is to train without its patients: their shards start again before the
        first slice that had one of them, all others are kept.
        """
        unknown = set(without) - set(self.places.patient_id)
        if unknown:
            raise InputError(f"{len(unknown)} patients of the request are in no shard")
        stages = [
            self._train_shard(shard, set(without), accelerator, progress)
            for shard in range(self.settings.shards)
        ]
        return float(sum(stages))

    def work(self) -> float:
        """Records, forward and backward, that training on everybody takes."""
        epochs = epochs_a_stage(self.training.epochs, self.settings.slices)
        stages = range(self.settings.slices)
        shards = range(self.settings.shards)
        return float(epochs * sum(len(self._rows(k, s, set())) for k in shards for s in stages))

    def at(self, folder: Path) -> Sisa:
        """The same model in another folder, such as a copy that serves a request."""
        return replace(self, folder=folder)

    def models(self) -> list[Checkpoint]:
        """The last slice's model of each shard. Raises InputError where one is missing."""
        return [
            load_checkpoint(self._stage(shard, self.settings.slices - 1))
            for shard in range(self.settings.shards)
        ]

    def predict(self, rows: Sequence[int], accelerator: Accelerator) -> Predictions:
        """What the shards say together of some rows of the cohort (`averaged`)."""
        return averaged([self._answers(saved, rows, accelerator) for saved in self.models()])

    def votes(self, rows: Sequence[int], accelerator: Accelerator) -> np.ndarray:
        """The class that most shards' fused predictions choose, int (n); the lowest of equals."""
        said = [
            self._answers(saved, rows, accelerator).probabilities("fused").argmax(-1)
            for saved in self.models()
        ]
        return np.apply_along_axis(lambda votes: np.bincount(votes).argmax(), 0, np.stack(said))

    def _answers(
        self, saved: Checkpoint, rows: Sequence[int], accelerator: Accelerator
    ) -> Predictions:
        examples = make_examples(self.cohort, rows, saved.tokenizer, saved.model.max_tokens)
        return predict(saved.model, examples, accelerator)

    def _stage(self, shard: int, stage: int) -> Path:
        return self.folder / f"shard-{shard + 1}" / f"slice-{stage + 1}"

    def _rows(self, shard: int, stage: int, without: set[str]) -> list[int]:
        """The training rows of a shard's slices up to a stage."""
        here = self.places[(self.places.shard == shard) & (self.places.slice <= stage)]
        patients = set(here.patient_id) - without
        train_rows = rows_of(self.cohort, "train")
        known = self.cohort.table.patient_id.iloc[train_rows].isin(patients)
        return [int(row) for row in np.asarray(train_rows)[known.to_numpy()]]

    def _train_shard(
        self, shard: int, without: set[str], accelerator: Accelerator, progress: bool
    ) -> float:
        epochs = epochs_a_stage(self.training.epochs, self.settings.slices)
        work, state = 0.0, None
        for stage in range(self.settings.slices):
            rows, folder = self._rows(shard, stage, without), self._stage(shard, stage)
            identity = self._identity(shard, stage, without)
            if kept := _kept(folder, identity):
                state = kept
                continue
            if not rows:
                raise InputError(
                    f"shard {shard + 1}: nobody is left in its first slices; fewer shards or "
                    "slices are needed, or a new assignment"
                )
            if state is None:
                # Of the first slice alone: what is added later leaves the words as they are.
                studies = self.cohort.table.study_id.iloc[rows].unique()
                reports = [self.cohort.reports[study] for study in studies]
                tokenizer = build_tokenizer(self.model, reports)
                size, classes = vocabulary_size(tokenizer), len(self.cohort.classes)
                start = build_model(self.model, classes, size, self._seed(shard, 0))
                state = Checkpoint(start, tokenizer, {})
            model, tokenizer = state.model, state.tokenizer
            sets = (rows, rows_of(self.cohort, "validation"))
            train(
                model,
                *(make_examples(self.cohort, r, tokenizer, model.max_tokens) for r in sets),
                replace(self.training, epochs=epochs),
                seed=self._seed(shard, stage),
                accelerator=accelerator,
                progress=progress and f"shard {shard + 1}, slice {stage + 1}",
            )
            work += epochs * len(rows)
            manifest = {"identity": identity, "cohort_fingerprint": self.cohort.fingerprint}
            save_checkpoint(folder, model, tokenizer, manifest)
            state = load_checkpoint(folder)
        return work

    def _seed(self, shard: int, stage: int) -> int:
        return self.seed + 1000 * (shard + 1) + stage

    def _identity(self, shard: int, stage: int, without: set[str]) -> str:
        """Of what a stage's weights depend on."""
        rows = [self._rows(shard, each, without) for each in range(stage + 1)]
        how = [self.model, self.training, self.settings.slices, self._seed(shard, stage)]
        return sha256_of_text(repr([*how, rows, code_fingerprint("training.sisa")]))[:16]


def _kept(folder: Path, identity: str) -> Checkpoint | None:
    """The state in a folder, where it is whole and of this identity."""
    try:
        saved = load_checkpoint(folder)
    except InputError:
        return None
    return saved if saved.manifest.get("identity") == identity else None


def averaged(answers: Sequence[Predictions]) -> Predictions:
    """The mean of several models' probabilities, by tower, as logits (their logarithm); embeddings
    side by side, (n, models x width): whoever holds the models holds them all."""

    def logits(name: str) -> np.ndarray:
        each = [getattr(p, name) for p in answers]
        if each[0].shape[-1] == 0:
            return each[0]
        mean = np.mean([softmax(x) for x in each], 0)
        return np.log(np.maximum(mean, np.finfo(np.float64).tiny))

    def embedding(name: str) -> np.ndarray:
        return np.concatenate([getattr(p, name) for p in answers], -1)

    return Predictions(
        logits("image_logits"),
        logits("text_logits"),
        embedding("image_embedding"),
        embedding("text_embedding"),
        answers[0].labels,
        answers[0].patients,
    )


def expected_share(patients: int, shards: int, slices: int) -> float:
    """The share of the whole training that a request of so many patients, spread at random, is
    expected to cost: a shard is trained again from the first slice that it touches, and its stage i
    takes i slices. With one slice 1 - (1 - 1/shards)^patients."""
    stage = np.arange(1, slices + 1)
    untouched = (1 - stage / (shards * slices)) ** patients
    return float((stage * (1 - untouched)).sum() / stage.sum())
