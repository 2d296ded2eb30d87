"""A run is a folder: one sub-folder a notebook, each with the executed notebook, its params, its
results, and a manifest written last. The next notebook reads only that."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from forget_mi.data import HASHED, Cohort, Request, load_cohort, pseudonym, read_forget_csv
from forget_mi.errors import InputError
from forget_mi.files import write_text
from forget_mi.models import MANIFEST
from forget_mi.runs.params import Params, without_removed
from forget_mi.runs.profiles import load_profile
from forget_mi.runs.project import ROOT, display_path
from forget_mi.runs.provenance import first_difference, provenance
from forget_mi.runs.salt import run_salt
from forget_mi.unlearning import needs_references

OUTCOME = "outcome.json"
TRAINED = ("seed", "cohort", "split", "request", "model", "training")
# The sections of the params that each stage depends on: a stage made with others is refused, not
# read.
STAGES = {
    "01_cohort": ("cohort", "split", "request"),
    "02_train": (*TRAINED, "retrained", "references"),
    "03_unlearn": (*TRAINED, "method", "unlearning"),
    "04_audit": (*TRAINED, "retrained", "audit", "shadows"),
}


@dataclass(frozen=True)
class Run:
    """A run folder and the params that rule it. seeds: original 1000 x seed, k-th retrained model
    1000 x seed + k, k-th reference model 1000 x seed + 500 + k, so that no two models of a study
    share one."""

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
        return {
            f"retrained-{k}": self.original_seed + k for k in range(1, self.params.retrained + 1)
        }

    def reference_seeds(self) -> dict[str, int]:
        """Names and seeds of the reference models."""
        return {
            name: self.original_seed + 501 + k
            for k, name in enumerate(self.params.references.names())
        }

    @property
    def needs_references(self) -> bool:
        """Whether the method learns from reference models."""
        return needs_references(
            self.params.method, getattr(self.params.unlearning, "setting", None)
        )

    def hashed(self, patient: str) -> str:
        """A patient's id as manifests, the ledger and reports show it."""
        return (
            patient
            if HASHED.fullmatch(patient)
            else pseudonym(run_salt(self.folder), "patient_id", patient)
        )

    @property
    def unlearned_name(self) -> str:
        """Method and setting, as in folder names and tables."""
        setting = getattr(self.params.unlearning, "setting", "")
        return f"{self.params.method}-{setting}" if setting else self.params.method

    def check_writable(self) -> None:
        """Make the run's folder. Raises InputError where it can't be made or written to."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            reason = None if os.access(self.folder, os.W_OK | os.X_OK) else "permission denied"
        except OSError as error:
            reason = error.strerror
        if reason:
            raise InputError(
                f"run folder {display_path(self.folder)}: can't be written ({reason}); name "
                "another one"
            )

    def start(self, name: str) -> Path:
        """Begin a stage: its folder, with the resolved params in it and no manifest yet."""
        folder = self.stage(name)
        self.check_writable()
        folder.mkdir(parents=True, exist_ok=True)
        for old in (MANIFEST, OUTCOME):
            (folder / old).unlink(missing_ok=True)
        write_text(folder / "params.yaml", self.params.to_yaml())
        return folder

    def finish(self, name: str, **facts: Any) -> dict[str, Any]:
        """End a stage by writing its manifest: nothing reads a stage that has none.

        facts: what was made, by hashes and names. They also go, alone, to outcome.json, which does
        not change where the stage is made again with the same result.
        """
        manifest = {
            "stage": name,
            "params": self.params.as_dict(*STAGES[name.split("/")[0]]),
            **provenance(),
            **facts,
        }
        write_text(self.stage(name) / MANIFEST, json.dumps(manifest, indent=2) + "\n")
        write_text(self.stage(name) / OUTCOME, json.dumps({"ok": True, **facts}, indent=2) + "\n")
        return manifest

    def fail(self, name: str, error: str) -> None:
        """End a stage by an outcome.json that says why there is no manifest."""
        write_text(
            self.stage(name) / OUTCOME, json.dumps({"ok": False, "error": error}, indent=2) + "\n"
        )

    def require(self, name: str) -> Path:
        """The folder of an earlier stage.

        Raises InputError where it is missing or was not finished, or was made with other params. (A
        method other than the params' own may have any settings.)
        """
        folder, (notebook, *method) = self.stage(name), name.split("/")
        path = folder / MANIFEST
        if not path.is_file():
            raise InputError(
                f"{display_path(folder)}: this stage has not been finished; run notebook "
                f"{notebook} first"
            )
        try:
            made_with = without_removed(json.loads(path.read_text())["params"], str(path))
        except (ValueError, KeyError) as error:
            raise InputError(
                f"{display_path(path)}: is damaged ({error}); run notebook {notebook} again"
            ) from None
        own = not method or method[0] == self.unlearned_name
        for section, value in self.params.as_dict(*STAGES[notebook]).items():
            if section in ("method", "unlearning") and not own:
                continue
            if made_with.get(section) != value:
                where, old, new = first_difference(made_with.get(section), value, section)
                raise InputError(
                    f"{display_path(folder)}: was made with {where} = {old!r}, the params here say "
                    f"{new!r}; run notebook {notebook} again, or use another run folder"
                )
        return folder

    def source(self) -> Cohort:
        """The cohort as its source gives it, not yet split; ids of real people hashed with this
        run's salt."""
        return load_source(self.params, run_salt(self.folder))

    def cohort(self) -> Cohort:
        """The split cohort that notebook 01 left."""
        return Cohort.load(self.require("01_cohort") / "cohort")

    def request(self) -> Request:
        """The deletion request that notebook 01 left."""
        path = next((self.require("01_cohort") / "request").glob("*.csv"), None)
        if path is None:
            raise InputError(
                f"{display_path(self.stage('01_cohort'))}: holds no request; run notebook "
                "01_cohort again"
            )
        return Request(path.stem, tuple(read_forget_csv(path)))

    def unlearned_names(self) -> list[str]:
        """The unlearned models of this run that are finished: in order of name, or those that
        audit.approaches asks for, in its order."""
        finished = sorted(
            path.parent.name for path in self.stage("03_unlearn").glob("*/manifest.json")
        )
        asked = self.params.audit.approaches
        return [name for name in asked if name in finished] if asked else finished


def load_source(params: Params, salt: str | None = None) -> Cohort:
    """The cohort as its source gives it, not yet split; see `load_cohort`. The image store of a
    profile lies in the project."""
    values = dict(params.cohort)
    if "store" in values:
        values["store"] = str(ROOT / values["store"])
    return load_cohort(values, salt)


def open_run(
    profile: str | Path = "demo",
    run_dir: str | Path | None = None,
    overrides: Mapping[str, Any] | None = None,
) -> Run:
    """The run of a profile: runs/<profile>, or run_dir (relative to the project)."""
    params = load_profile(profile, overrides)
    return Run(ROOT / (run_dir or f"runs/{params.profile}"), params)
