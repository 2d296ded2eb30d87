"""A run is a folder: one sub-folder a notebook, each with the executed notebook, its params, its results, and a
manifest written last. The next notebook reads only that."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from accelerate import Accelerator

from forget_mi.data.batches import make_examples
from forget_mi.data.cohort import Cohort, rows_of
from forget_mi.data.cohorts import load_cohort
from forget_mi.data.pseudonyms import HASHED, pseudonym, run_salt
from forget_mi.data.requests import Request, read_forget_csv
from forget_mi.errors import InputError
from forget_mi.files import replace_when_whole, sha256_of, sha256_of_text, write_text
from forget_mi.models.checkpoints import MANIFEST, WEIGHTS, Checkpoint, load_checkpoint, read_manifest, save_checkpoint
from forget_mi.models.contract import require_model
from forget_mi.models.image_text import ImageTextModel
from forget_mi.models.pretrained import load_trained, weights_file
from forget_mi.runs.parallel import side_by_side
from forget_mi.runs.params import Params, plain
from forget_mi.runs.profiles import load_profile
from forget_mi.runs.project import ROOT, progress_wanted, shown
from forget_mi.runs.provenance import first_difference, provenance
from forget_mi.source_code import code_fingerprint
from forget_mi.training.devices import describe_device, make_accelerator, peak_memory_bytes
from forget_mi.training.loop import train_new
from forget_mi.training.references import fold_of_patients, rows_without
from forget_mi.training.shadows import Shadows, ShadowSet, shadow_set
from forget_mi.training.state import TrainingLog
from forget_mi.unlearning import needs_references
from forget_mi.unlearning.kept import KeptOutputs
from forget_mi.unlearning.references import Forgot, References
from forget_mi.unlearning.shadows import unlearn_shadows

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# Which sections of the params each stage depends on: a stage made with others is refused, not read.
STAGES = {
    "01_cohort": ("cohort", "split", "request"),
    "02_train": ("seed", "cohort", "split", "request", "model", "training", "retrained", "references"),
    "03_unlearn": ("seed", "cohort", "split", "request", "model", "training", "method", "unlearning"),
    "04_audit": ("seed", "cohort", "split", "request", "model", "training", "retrained", "audit", "shadows"),
}


SHADOWS = ROOT / "runs" / "shadows"


OUTPUTS = "original.outputs.safetensors"


@dataclass(frozen=True)
class Run:
    """A run folder and the params that rule it. seeds: original 1000 x seed, k-th retrained model 1000 x seed + k, k-th
    reference model 1000 x seed + 500 + k, so that no two models of a study share one."""

    folder: Path
    params: Params

    def stage(self, name: str) -> Path:
        """The folder of a stage."""
        return self.folder / name

    @property
    def original_seed(self) -> int:
        """Of F_og's weights and batches."""
        return 1000 * self.params.seed

    def retrained_seeds(self) -> dict[str, int]:
        """Names and seeds of the retrained models."""
        return {f"retrained-{k}": self.original_seed + k for k in range(1, self.params.retrained + 1)}

    def reference_seeds(self) -> dict[str, int]:
        """Names and seeds of the reference models."""
        return {name: self.original_seed + 501 + k for k, name in enumerate(self.params.references.names())}

    @property
    def needs_references(self) -> bool:
        """Whether the method learns from reference models."""
        return needs_references(self.params.method, getattr(self.params.unlearning, "setting", None))

    def hashed(self, patient: str) -> str:
        """A patient's id as manifests, the ledger and reports show it."""
        return patient if HASHED.fullmatch(patient) else pseudonym(run_salt(self.folder), "patient_id", patient)

    @property
    def unlearned_name(self) -> str:
        """Method and setting, as in folder names and tables."""
        setting = getattr(self.params.unlearning, "setting", "")
        return f"{self.params.method}-{setting}" if setting else self.params.method

    def accelerator(self, **changes: Any) -> Accelerator:
        """Device and precision as the params say, but for some changes: threads=None where nothing is timed."""
        return make_accelerator(replace(self.params.device, **changes))

    # -- stages ----------------------------------------------------------------------------------------------

    def start(self, name: str) -> Path:
        """Begin a stage: its folder, with the resolved params in it and no manifest yet."""
        folder = self.stage(name)
        folder.mkdir(parents=True, exist_ok=True)
        for name in (MANIFEST, "outcome.json"):
            (folder / name).unlink(missing_ok=True)
        write_text(folder / "params.yaml", self.params.to_yaml())
        return folder

    def finish(self, name: str, **facts: Any) -> dict[str, Any]:
        """End a stage by writing its manifest: nothing reads a stage that has none.

        facts: what was made, by hashes and names. They also go, alone, to outcome.json, which does not change where the
        stage is made again with the same result.
        """
        manifest = {"stage": name, "params": self.params.as_dict(*STAGES[name.split("/")[0]]), **provenance(), **facts}
        write_text(self.stage(name) / "manifest.json", json.dumps(manifest, indent=2) + "\n")
        write_text(self.stage(name) / "outcome.json", json.dumps({"ok": True, **facts}, indent=2) + "\n")
        return manifest

    def fail(self, name: str, error: str) -> None:
        """End a stage by an outcome.json that says why there is no manifest."""
        write_text(self.stage(name) / "outcome.json", json.dumps({"ok": False, "error": error}, indent=2) + "\n")

    def require(self, name: str) -> Path:
        """The folder of an earlier stage.

        Raises InputError where it is missing or was not finished, or was made with other params. (A method other than
        the params' own may have any settings.)
        """
        folder, (notebook, *method) = self.stage(name), name.split("/")
        path = folder / "manifest.json"
        if not path.is_file():
            raise InputError(f"{shown(folder)}: this stage has not been finished; run notebook {notebook} first")
        try:
            made_with = json.loads(path.read_text())["params"]
        except (ValueError, KeyError) as error:
            raise InputError(f"{shown(path)}: is damaged ({error}); run notebook {notebook} again") from None
        own = not method or method[0] == self.unlearned_name
        for section, value in self.params.as_dict(*STAGES[notebook]).items():
            if section in ("method", "unlearning") and not own:
                continue
            if made_with.get(section) != value:
                where, old, new = first_difference(made_with.get(section), value, section)
                raise InputError(
                    f"{shown(folder)}: was made with {where} = {old!r}, the params here say {new!r}; run notebook "
                    f"{notebook} again, or use another run folder"
                )
        return folder

    # -- what the stages start from and leave ----------------------------------------------------------------------

    def source(self) -> Cohort:
        """The cohort as its source gives it, not yet split; ids of real people hashed with this run's salt."""
        return load_cohort(self.params.cohort, run_salt(self.folder))

    def cohort(self) -> Cohort:
        """The split cohort that notebook 01 left."""
        return Cohort.load(self.require("01_cohort") / "cohort")

    def request(self) -> Request:
        """The deletion request that notebook 01 left."""
        path = next((self.require("01_cohort") / "request").glob("*.csv"), None)
        if path is None:
            raise InputError(f"{shown(self.stage('01_cohort'))}: holds no request; run notebook 01_cohort again")
        return Request(path.stem, tuple(read_forget_csv(path)))

    def checkpoint(self, name: str, cohort: Cohort) -> Checkpoint:
        """A model that notebook 02 (original, retrained-1, reference-1, ...) or 03 (a method's name) left.

        Raises InputError where it is damaged, of another cohort, or unlearned from another original.
        """
        trained = self.require("02_train")
        if name == "original" or name in self.retrained_seeds() or name in self.reference_seeds():
            return load_checkpoint(trained / name, fingerprint=cohort.fingerprint)
        folder = self.require(f"03_unlearn/{name}") / "model"
        unlearned = load_checkpoint(folder, fingerprint=cohort.fingerprint)
        if unlearned.manifest["original_sha256"] != read_manifest(trained / "original")["weights_sha256"]:
            raise InputError(f"{shown(folder)}: was unlearned from another original; run notebook 03_unlearn again")
        return unlearned

    def trained(self, name: str, cohort: Cohort) -> Checkpoint:
        """A model that `train` made, whether its stage is finished or not. Raises InputError as `load_checkpoint`."""
        return load_checkpoint(self.stage("02_train") / name, fingerprint=cohort.fingerprint)

    def references(self, cohort: Cohort) -> References:
        """The reference models that notebook 02 left; none where one is missing and the method needs none.

        Raises InputError where one is missing or damaged, or of another cohort, model or training.
        """
        there = all((self.stage("02_train") / name / MANIFEST).is_file() for name in self.reference_seeds())
        names = self.reference_seeds() if there or self.needs_references else {}
        checkpoints = {name: self.trained(name, cohort) for name in names}
        expected = self.params.as_dict("model", "training")
        for name, saved in checkpoints.items():
            made_with = {section: saved.manifest["identity"].get(section) for section in expected}
            if made_with != expected:
                where, old, new = first_difference(made_with, expected, "params")
                raise InputError(
                    f"{shown(self.stage('02_train') / name)}: was trained with {where} = {old!r}, the run has {new!r}; "
                    "remove the folder, and notebook 02 trains it again"
                )
        saw = {name: frozenset(saved.manifest["patients"]) for name, saved in checkpoints.items()}
        everyone = {self.hashed(patient) for patient in cohort.table.patient_id.unique()} if saw else set()
        for name, patients in saw.items():
            if not patients <= everyone:
                raise InputError(
                    f"{shown(self.stage('02_train') / name)}: names {len(patients - everyone)} patients who are not in "
                    "the cohort (was another salt used to hash them?); remove the folder, and it is trained again"
                )
        return References(checkpoints, saw, self.hashed)

    def kept_outputs(self, original: Checkpoint, accelerator: Accelerator) -> KeptOutputs | None:
        """What earlier runs of notebook 03 have asked the original model; None where the params say not to keep it."""
        if not self.params.keep_outputs:
            return None
        made_of = [original.manifest[name] for name in ("weights_sha256", "cohort_fingerprint")]
        made_of += [accelerator.mixed_precision, code_fingerprint("training.prediction")]
        return KeptOutputs.open(self.stage("02_train") / OUTPUTS, sha256_of_text(json.dumps(made_of)))

    def unlearned_names(self) -> list[str]:
        """The unlearned models of this run that are finished: in order of name, or those that audit.approaches asks
        for, in its order."""
        finished = sorted(path.parent.name for path in self.stage("03_unlearn").glob("*/manifest.json"))
        asked = self.params.audit.approaches
        return [name for name in asked if name in finished] if asked else finished

    def shadow_set(self, cohort: Cohort) -> ShadowSet:
        """The shadow models of this run's cohort, which all runs of the same cohort, model and training share."""
        params = self.params
        return shadow_set(SHADOWS, cohort, params.model, params.training, params.shadows, params.device)

    def shadows(self, cohort: Cohort, accelerator: Accelerator) -> Shadows | None:
        """What the shadow models say of every record of the cohort; None where the params ask for none, or leave them
        out as long as some are missing."""
        found, wanted = self.shadow_set(cohort), self.params.shadows
        if wanted.missing == "train":
            for number in range(wanted.count):
                found.train(number, accelerator, progress=progress_wanted())
        return found.shadows() if wanted.count and len(found.trained()) == wanted.count else None

    def unlearned_shadows(self, cohort: Cohort, request: Request, accelerator: Accelerator) -> Shadows:
        """What the shadow models say of D_f and D_t (in this order) after the params' method made each of them forget
        a request of its own; kept in the stage of the audit."""
        judged = np.concatenate([request.forget_rows(cohort), rows_of(cohort, "test")])
        models = self.shadow_set(cohort)
        made_of = {**self.params.as_dict("method", "unlearning", "audit"), "judged": judged.tolist()}
        made_of |= {"shadows": str(models.folder), "code": code_fingerprint(f"unlearning.{self.params.method}")}
        key = sha256_of_text(json.dumps(made_of))[:12]
        path = self.stage("04_audit") / f"unlearned_shadows-{key}.npz"
        if not path.is_file():
            unlearn_shadows(
                models,
                judged,
                request.fraction(cohort),
                self.params.method,
                self.params.unlearning,
                requests=self.params.audit.u_lira,
                seed=self.original_seed,
                accelerator=accelerator,
            ).save(path)
        return Shadows.load(path, len(judged))

    def train(self, name: str, cohort: Cohort, request: Request, accelerator: Accelerator) -> dict[str, Any]:
        """Train `original` on all training patients, `retrained-k` without the request, or `reference-k` without a fold
        of the patients; return its manifest.

        A whole checkpoint of the same params, seed, records and code is reused, also one that a run in a folder beside
        this one has made (the original does not depend on the request); a training that was killed goes on from its
        last whole epoch and ends with the same weights.
        """
        folder = self.stage("02_train") / name
        seed = {"original": self.original_seed, **self.retrained_seeds(), **self.reference_seeds()}[name]
        kind = {"original": "original", "reference": "reference"}.get(name.split("-")[0], "retrain")
        if kind == "reference":
            rows = self._reference_rows(name, cohort)
        else:
            rows = request.retain_rows(cohort) if kind == "retrain" else rows_of(cohort, "train")
        images = [cohort.table.image_id.iloc[part].tolist() for part in (rows, rows_of(cohort, "validation"))]
        identity = {
            **self.params.as_dict("model", "training", "device"),
            "seed": seed,
            "cohort": cohort.fingerprint,
            "images": sha256_of_text(json.dumps(images))[:16],
            "library": code_fingerprint("training.loop", "training.devices"),
        }
        given = self.params.model.given(name)
        if given:
            identity |= {"weights": sha256_of(weights_file(given))}
        if kind == "reference":
            identity |= self.params.as_dict("references")
        for beside in (folder, *sorted(self.folder.parent.glob(f"*/02_train/{name}"))):
            done = reusable(beside, identity)
            if done is not None:
                if beside != folder and accelerator.is_main_process:
                    with replace_when_whole(folder) as temporary:
                        shutil.copytree(beside, temporary, dirs_exist_ok=True)
                        if kind == "reference":  # the other run has hashed them with a salt of its own
                            renamed = {**done, "patients": self.hashed_patients(cohort, rows)}
                            write_text(temporary / MANIFEST, json.dumps(renamed, indent=2) + "\n")
                accelerator.wait_for_everyone()
                return read_manifest(folder)
        state = folder.with_name(f".{name}.state-{sha256_of_text(json.dumps(plain(identity)))[:12]}")
        made = self._taken_over(given, cohort) if given else None
        model, tokenizer, log = made or train_new(
            cohort,
            rows,
            self.params.model,
            self.params.training,
            seed=seed,
            accelerator=accelerator,
            state_folder=state,
            description=name,
            progress=progress_wanted(),
        )
        manifest = self.save_model(
            folder,
            (model, tokenizer),
            cohort,
            request if kind == "retrain" else None,
            accelerator=accelerator,
            method=kind,
            setting="",
            seed=seed,
            seconds=None if given else log.seconds,
            epochs=log.epochs,
            best_epoch=log.best_epoch,
            identity=plain(identity),
            patients=self.hashed_patients(cohort, rows) if kind == "reference" else None,
        )
        if accelerator.is_main_process:
            shutil.rmtree(state, ignore_errors=True)
        return manifest

    def _taken_over(
        self, path: str, cohort: Cohort
    ) -> tuple[ImageTextModel, PreTrainedTokenizerBase | None, TrainingLog]:
        """A model that was trained elsewhere. Raises InputError where it can't be read, or can't be made to forget."""
        model, tokenizer = load_trained(path, self.params.model, len(cohort.classes))
        some = make_examples(cohort, rows_of(cohort, "validation")[:4], tokenizer, model.max_tokens)
        require_model(model, some, len(cohort.classes), tokenizer, name=shown(Path(path)))
        return model, tokenizer, TrainingLog()

    def train_all(self, names: Iterable[str], cohort: Cohort, request: Request) -> dict[str, dict[str, Any]]:
        """`train` for each name, side by side where the params leave cores to others; their manifests by name."""
        names, how = list(names), {"cohort": cohort, "request": request}
        if self.params.device.at_once() == 1:
            accelerator = self.accelerator()
            return {name: self.train(name, **how, accelerator=accelerator) for name in names}
        train = partial(_train, run=self, **how)
        return dict(zip(names, side_by_side(train, names, self.params.device, progress_wanted()), strict=True))

    def hashed_patients(self, cohort: Cohort, rows: np.ndarray) -> list[str]:
        """The patients of some rows, hashed and sorted."""
        return sorted(self.hashed(patient) for patient in cohort.table.patient_id.iloc[rows].unique())

    def _reference_rows(self, name: str, cohort: Cohort) -> np.ndarray:
        """Training rows of a reference model: all but its fold. The folds are those of the references that are there
        already."""
        ids = {self.hashed(patient): patient for patient in cohort.table.patient_id.unique()}
        known = {}
        for other in self.reference_seeds():
            folder = self.stage("02_train") / other
            saved = read_manifest(folder) if (folder / MANIFEST).is_file() else {}
            same_cut = saved.get("identity", {}).get("references") == plain(self.params.references)
            if other != name and same_cut and saved["cohort_fingerprint"] == cohort.fingerprint:
                known[other] = [ids[patient] for patient in saved["patients"] if patient in ids]
        folds = fold_of_patients(cohort, self.params.references, known)
        return rows_without(cohort, folds, list(self.reference_seeds()).index(name))

    def save_references(
        self, folder: Path, forgot: Mapping[str, Forgot], cohort: Cohort, request: Request, **how: Any
    ) -> dict[str, str]:
        """Save the references after a request, which none of them knows any longer; return their hashes by name.

        how: accelerator, and the facts of `save_model` that they share.
        """
        hashes, gone = {}, {self.hashed(patient) for patient in request.patients}
        for name, done in forgot.items():
            before = self.checkpoint(name, cohort)
            facts = {key: before.manifest[key] for key in ("identity", "seed")}
            facts |= {"patients": [p for p in before.manifest["patients"] if p not in gone]}
            facts |= {"method": "reference", "setting": "", "seconds": done.seconds}
            model = (done.model, before.tokenizer)
            hashes[name] = self.save_model(folder / name, model, cohort, request, **facts, **how)["weights_sha256"]
        return hashes

    def save_model(
        self,
        folder: Path,
        model_and_tokenizer: tuple[ImageTextModel, PreTrainedTokenizerBase],
        cohort: Cohort,
        request: Request | None,
        *,
        accelerator: Accelerator,
        **facts: Any,
    ) -> dict[str, Any]:
        """Save a model with a manifest: the cohort, the request that it must not know (None: it was trained on
        everyone), the given facts, device and provenance."""
        model, tokenizer = model_and_tokenizer
        manifest = {
            "cohort": cohort.name,
            "cohort_fingerprint": cohort.fingerprint,
            "request": request
            and {
                "name": request.name,
                "patients": len(request.patients),
                "images": len(request.forget_rows(cohort)),
                "fraction": round(request.fraction(cohort), 4),
            },
            **facts,
            "peak_memory_bytes": peak_memory_bytes(accelerator.device),
            "device": describe_device(accelerator.device),
            "precision": accelerator.mixed_precision,
            **provenance(),
        }
        if accelerator.is_main_process:
            save_checkpoint(folder, model, tokenizer, manifest)
        accelerator.wait_for_everyone()
        return read_manifest(folder)


def _train(name: str, run: Run, cohort: Cohort, request: Request) -> dict[str, Any]:
    os.environ["FORGET_MI_PROGRESS"] = "0"  # bars of several processes would write over each other
    return run.train(name, cohort, request, run.accelerator())


def open_run(
    profile: str | Path = "demo", run_dir: str | Path | None = None, overrides: Mapping[str, Any] | None = None
) -> Run:
    """The run of a profile: runs/<profile>, or run_dir (relative to the project)."""
    params = load_profile(profile, overrides)
    return Run(ROOT / (run_dir or f"runs/{params.profile}"), params)


def reusable(folder: Path, identity: Mapping[str, Any]) -> dict[str, Any] | None:
    """The manifest of a whole checkpoint with this identity (params, seed, records, code), or None."""
    if not (Path(folder) / "manifest.json").is_file():
        return None
    try:
        manifest = read_manifest(folder)
    except InputError:
        return None
    whole = (Path(folder) / WEIGHTS).is_file() and sha256_of(Path(folder) / WEIGHTS) == manifest.get("weights_sha256")
    return manifest if whole and manifest.get("identity") == plain(identity) else None
