"""Shadow models: each is trained on one half of a cohort's patients; from them an attacker learns
what a record looks like to a model that knows it, and to one that doesn't. They judge; the models
that teach are in references.py.

They belong to a cohort, not to a run: one set serves every split, request and method. Its folder is
runs/shadows/<cohort>-<key>/, where the key changes with the cohort, the model, the training and the
code that trains.
"""

from __future__ import annotations

import json
import shutil
import zipfile
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from accelerate import Accelerator
from filelock import FileLock

from forget_mi.data import Cohort, make_examples
from forget_mi.errors import InputError
from forget_mi.files import replace_when_whole, sha256_of_text, write_text
from forget_mi.models import (
    MANIFEST,
    Checkpoint,
    ModelConfig,
    load_checkpoint,
    read_manifest,
    save_checkpoint,
)
from forget_mi.source_code import code_fingerprint
from forget_mi.training.config import ShadowConfig, TrainingConfig
from forget_mi.training.loop import train_new
from forget_mi.training.prediction import Predictions, predict

# Shadow models share no seed with a run's models, which are 1000 x seed + k with k small.
SEEDS = 900_000


def balanced_halves(cohort: Cohort, count: int, seed: int) -> np.ndarray:
    """Which patients each shadow model is trained on: bool (count, patients), patients in the order
    of the table.

    Each model has half of the patients of each class (by a patient's most frequent label), to
    within one; each patient is in exactly half of the models, since models come in pairs of
    complements (Carlini et al., 2022).
    """
    patients = cohort.table.patient_id.unique()
    label = cohort.table.groupby("patient_id").label.agg(lambda labels: labels.mode().iloc[0])
    strata = label.loc[patients].to_numpy()
    halves = np.zeros((count, len(patients)), dtype=bool)
    rng = np.random.default_rng([seed, 29])
    for pair in range(count // 2):
        # Odd classes give their extra patient to one half and the other in turn.
        spare = int(rng.integers(2))
        for stratum in np.unique(strata):
            members = rng.permutation(np.flatnonzero(strata == stratum))
            cut = (len(members) + spare) // 2
            spare = 1 - spare if len(members) % 2 else spare
            halves[2 * pair, members[:cut]] = True
        halves[2 * pair + 1] = ~halves[2 * pair]
    return halves


@dataclass(frozen=True)
class Shadows:
    """Predictions of shadow models for some records. predictions: one a model. member: bool
    (models, records), whether the model was trained on the record (where the models were unlearned:
    was trained on it, then made to forget it). stranger: bool (models, records), whether it never
    saw the record."""

    predictions: Sequence[Predictions]
    member: np.ndarray
    stranger: np.ndarray

    def __len__(self) -> int:
        return len(self.predictions)

    def select(self, records: np.ndarray) -> Shadows:
        """The same models on some of the records."""
        return Shadows(
            [p.select(records) for p in self.predictions],
            self.member[:, records],
            self.stranger[:, records],
        )

    def save(self, path: Path) -> None:
        """One .npz file, whole or not at all. Embeddings are kept in half precision: nothing reads
        them finer."""
        arrays = {"member": self.member, "stranger": self.stranger}
        for name in Predictions.__dataclass_fields__:
            stacked = np.stack([getattr(p, name) for p in self.predictions])
            arrays[name] = stacked.astype(np.float16) if name.endswith("embedding") else stacked
        with replace_when_whole(path) as temporary, open(temporary, "wb") as file:
            np.savez(file, **arrays)

    @classmethod
    def load(cls, path: Path, records: int) -> Shadows:
        """What `save` wrote. Raises InputError where it is damaged or of another number of
        records."""
        try:
            with np.load(path) as file:
                stacked = {name: file[name] for name in Predictions.__dataclass_fields__}
                member, stranger = file["member"], file["stranger"]
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
            raise InputError(
                f"{path}: can't be read ({error}); remove it, and it is made again"
            ) from None
        if member.shape[1] != records:
            raise InputError(
                f"{path}: holds {member.shape[1]} records, {records} are asked for; remove it"
            )
        models = range(len(member))
        return cls(
            [Predictions(**{name: a[k] for name, a in stacked.items()}) for k in models],
            member,
            stranger,
        )


@dataclass(frozen=True)
class ShadowSet:
    """The shadow models of a cohort in their folder, whether trained already or not."""

    folder: Path
    cohort: Cohort
    model: ModelConfig
    training: TrainingConfig
    settings: ShadowConfig

    @cached_property
    def halves(self) -> np.ndarray:
        """bool (count, patients), see `balanced_halves`."""
        return balanced_halves(self.cohort, self.settings.count, self.settings.seed)

    @cached_property
    def _codes(self) -> np.ndarray:
        return pd.factorize(self.cohort.table.patient_id)[0]

    def rows_of(self, number: int) -> np.ndarray:
        """Table rows that a shadow model is trained on."""
        return np.flatnonzero(self.halves[number][self._codes])

    def split_for(self, number: int) -> Cohort:
        """The cohort as it is to a shadow model: its half is in training, a fifth of the other
        patients in validation, the rest in test."""
        away = np.random.default_rng([self.settings.seed, number, 31]).permutation(
            np.flatnonzero(~self.halves[number])
        )
        watched = np.isin(self._codes, away[: max(1, len(away) // 5)])
        split = np.where(watched, "validation", "test").astype(object)
        split[self.rows_of(number)] = "train"
        return replace(self.cohort, table=self.cohort.table.assign(split=split))

    def path(self, number: int) -> Path:
        """Of a shadow model's folder."""
        return self.folder / f"shadow-{number:02d}"

    def trained(self) -> list[int]:
        """The numbers of the models that are whole."""
        return [n for n in range(self.settings.count) if (self.path(n) / MANIFEST).is_file()]

    def train(self, number: int, accelerator: Accelerator, *, progress: bool = True) -> None:
        """Train one model and keep its predictions for every record; where it is whole already, do
        nothing. A training that was killed goes on from its last whole epoch; of several processes
        that ask for it, one trains and the others wait."""
        folder, cohort = self.path(number), self.cohort
        alone = (
            accelerator.num_processes == 1
        )  # several that train as one must not wait for each other
        with FileLock(folder.with_name(f".{folder.name}.lock")) if alone else nullcontext():
            if not (folder / MANIFEST).is_file():
                self._train(number, folder, cohort, accelerator, progress)

    def _train(
        self, number: int, folder: Path, cohort: Cohort, accelerator: Accelerator, progress: bool
    ) -> None:
        rows = self.rows_of(number)
        seed = SEEDS + 1000 * self.settings.seed + number
        state = folder.with_name(f".{folder.name}.state")
        model, tokenizer, log = train_new(
            self.split_for(number),
            rows,
            self.model,
            self.training,
            seed=seed,
            accelerator=accelerator,
            state_folder=state,
            progress=progress and folder.name,
        )
        everyone = make_examples(cohort, np.arange(len(cohort)), tokenizer, self.model.max_tokens)
        seen = predict(model, everyone, accelerator)
        member = np.isin(np.arange(len(cohort)), rows)[None]
        Shadows([seen], member, ~member).save(self._predictions_path(number))
        facts = {
            "cohort_fingerprint": cohort.fingerprint,
            "method": "shadow",
            "seed": seed,
            "seconds": log.seconds,
        }
        save_checkpoint(folder, model, tokenizer, facts)
        shutil.rmtree(state, ignore_errors=True)

    def load(self, number: int) -> Checkpoint:
        """One of the models. Raises InputError where it is missing or damaged."""
        return load_checkpoint(self.path(number), fingerprint=self.cohort.fingerprint)

    def shadows(self) -> Shadows:
        """The predictions of all of them for every record.

        Raises InputError where one is missing, or belongs to another cohort.
        """
        missing = sorted(set(range(self.settings.count)) - set(self.trained()))
        if missing:
            raise InputError(
                f"{self.folder}: {len(missing)} of {self.settings.count} shadow models are missing "
                f"(the first is {self.path(missing[0]).name}); make shadows trains them"
            )
        seen = []
        for number in range(self.settings.count):
            fingerprint = read_manifest(self.path(number))["cohort_fingerprint"]
            if fingerprint != self.cohort.fingerprint:
                raise InputError(
                    f"{self.path(number)}: was trained on another cohort ({fingerprint}; the "
                    f"cohort here is {self.cohort.fingerprint}); remove {self.folder} and train "
                    "the shadow models again"
                )
            seen.append(Shadows.load(self._predictions_path(number), len(self.cohort)))
        member = np.concatenate([each.member for each in seen])
        return Shadows([each.predictions[0] for each in seen], member, ~member)

    def _predictions_path(self, number: int) -> Path:
        return self.folder / f"shadow-{number:02d}.npz"


def open_shadow_set(
    parent: Path,
    cohort: Cohort,
    model: ModelConfig,
    training: TrainingConfig,
    settings: ShadowConfig,
    device: Any,
) -> ShadowSet:
    """The shadow models of a cohort below `parent`; shadows.json in their folder says what they
    were made of.

    device: the section of the params, which changes the numbers. Raises InputError where the folder
    was made with another configuration.
    """
    made_of = {
        "cohort": cohort.fingerprint,
        "model": asdict(model),
        "training": asdict(training),
        "device": asdict(device),
        "shadows": {"count": settings.count, "seed": settings.seed},
        "library": code_fingerprint("training.loop", "training.devices"),
        # Another processor's instructions round otherwise, and training makes much of little.
        "instructions": torch.backends.cpu.get_cpu_capability(),
    }
    made_of = json.loads(json.dumps(made_of, default=str))
    key = sha256_of_text(json.dumps(made_of, sort_keys=True))[:12]
    folder = Path(parent) / f"{cohort.name}-{key}"
    about = folder / "shadows.json"
    if about.is_file() and json.loads(about.read_text()) != made_of:
        raise InputError(
            f"{about}: these shadow models were trained with another configuration; remove the "
            "folder"
        )
    found = ShadowSet(folder, cohort, model, training, settings)
    if settings.count and not about.is_file():
        write_text(about, json.dumps(made_of, indent=2) + "\n")
    return found
