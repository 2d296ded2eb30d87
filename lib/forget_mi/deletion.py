"""Deletion requests to a model that is in use: a request comes in, an unlearned model and its evidence go out.

    <run>/requests/ledger.json      what was served, in order; hashed ids only
    <run>/requests/001/             a run folder of its own: notebooks 03 and 04 run in it
        request.yaml                its profile: the run's, with this request and without retrained models
        01_cohort, 02_train         the cohort and the model as they were when the request came in
        03_unlearn, 04_audit        what was done, and the evidence
        report.html, report.json

Requests go from model to model: the second starts from what the first left. Patients whose request was served are no
longer in training (their side is 'forgotten'): no later request learns from them, and while their records are there,
each audit looks at them again.
"""

from __future__ import annotations

import json
import re
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml

from forget_mi.audit import FORGOTTEN
from forget_mi.checkpoints import MANIFEST, WEIGHTS, read_manifest
from forget_mi.cohorts.base import Cohort
from forget_mi.cohorts.pseudonyms import SALT, run_salt
from forget_mi.errors import InputError
from forget_mi.files import replace_when_whole, write_text
from forget_mi.pipeline import run_chain
from forget_mi.profiles import SECTIONS, Params, resolve
from forget_mi.report import write_report
from forget_mi.runs import OUTPUTS, Run, open_run, shown
from forget_mi.splits import Request, check_request, in_cohort, read_forget_csv

DELETED = "deleted"  # the side of rows whose records were destroyed
DELETING = "deleting.json"  # in the run's folder while that goes on


@dataclass(frozen=True)
class ServedModel:
    """A trained run whose model is in use, with the requests that were served."""

    folder: Path

    @cached_property
    def params(self) -> Params:
        """Of the run, as notebook 02 resolved them. Raises InputError where it has not been finished."""
        trained = self.folder / "02_train"
        if not (trained / "manifest.json").is_file():
            raise InputError(
                f"MODEL {shown(self.folder)}: holds no trained model (02_train is missing or unfinished); run "
                "notebooks 01_cohort and 02_train on it, or name another run folder"
            )
        values = yaml.safe_load((trained / "params.yaml").read_text())
        return resolve(_sections(values), values["profile"])

    @property
    def ledger(self) -> list[dict[str, Any]]:
        """One entry a served request, in order. Raises InputError where the file is damaged."""
        path = self.folder / "requests" / "ledger.json"
        if not path.is_file():
            return []
        try:
            return json.loads(path.read_text())["requests"]
        except (ValueError, KeyError) as error:
            raise InputError(f"{shown(path)}: is damaged ({error}); restore it before any request is served") from None

    def served(self) -> dict[str, dict[str, Any]]:
        """By hashed id, the entry of each patient whose request was served."""
        return {patient: entry for entry in self.ledger for patient in entry["patients"]}

    def _add(self, entry: Mapping[str, Any]) -> None:
        path = self.folder / "requests" / "ledger.json"
        write_text(path, json.dumps({"requests": [*self.ledger, entry]}, indent=2) + "\n")

    def checkpoint(self) -> Path:
        """The folder of the model as it is now: the last request's, or the run's original."""
        if not self.ledger:
            return self.folder / "02_train" / "original"
        return self.folder / self.ledger[-1]["checkpoint"]

    def reference(self, name: str) -> Path | None:
        """The folder of a reference model as it is now: the last request's, or the run's; None where it is lost, or was
        left behind by a request that was served without it."""
        folder = self.checkpoint().parent / (name if not self.ledger else f"references/{name}")
        return folder if (folder / MANIFEST).is_file() else None

    def cohort(self) -> Cohort:
        """The run's cohort, with the patients of served requests on the side 'forgotten'."""
        cohort = Run(self.folder, self.params).cohort()
        gone = cohort.table.patient_id.map(self.hashed).isin(self.served())
        there = gone & (cohort.table.split != DELETED)
        return replace(cohort, table=cohort.table.assign(split=cohort.table.split.where(~there, FORGOTTEN)))

    def delete_records(self) -> int:
        """Destroy what is still there of the patients whose requests were served; return how many records that were.

        In every copy of the cohort below the run their images are blanked, their reports and ids replaced; executed
        notebooks, which show pictures and reports, the weights of every model but those in use, which knew some of
        them, and what models said of single records are removed. No later request or audit reads them (they are on the
        side 'deleted'). Shadow models belong to the cohort as it was; an audit with them needs new ones.

        Killed on the way, it goes on the next time: what is to be replaced by what is kept in DELETING until all is.

        Raises InputError where no request was served.
        """
        served = self.served()
        if not served:
            raise InputError(f"MODEL {shown(self.folder)}: no request was served; there are no records to delete")
        in_use = {
            self.checkpoint(),
            *(self.reference(name) for name in Run(self.folder, self.params).reference_seeds()),
        }
        journal = self.folder / DELETING
        begun = json.loads(journal.read_text()) if journal.is_file() else {"deleted": 0, "renamed": {}}
        deleted, renamed = begun["deleted"], begun["renamed"]
        ids = self.cohort().table.patient_id.unique()
        renamed |= {name: self.hashed(name) for name in ids if self.hashed(name) in served}
        for path in sorted(self.folder.rglob("cohort.json")):
            before = Cohort.load(path.parent)
            after, count = without_records(before, before.table.patient_id.map(self.hashed).isin(served), self.hashed)
            if count:
                renamed[before.fingerprint] = after.fingerprint
                deleted = max(deleted, count)
                write_text(journal, json.dumps({"deleted": deleted, "renamed": renamed}))
                with replace_when_whole(path.parent) as whole:
                    after.save(whole)
        for path in self.folder.rglob("*.ipynb"):
            path.unlink()
        for path in self.folder.rglob(WEIGHTS):
            if path.parent not in in_use:
                path.unlink()
        for path in self.folder.rglob(OUTPUTS):
            path.unlink()
        # Fingerprints and ids that manifests, profiles and tables name.
        names = re.compile(r"\b(" + "|".join(map(re.escape, renamed)) + r")\b") if renamed else None
        for path in self.folder.rglob("*") if names else ():
            if path.suffix in (".json", ".yaml", ".csv") and path.parent.name != "cohort" and path != journal:
                write_text(path, names.sub(lambda found: renamed[found[0]], path.read_text()))
        journal.unlink(missing_ok=True)
        return deleted

    def hashed(self, patient: str) -> str:
        """A patient's id as ledger and reports show it."""
        return Run(self.folder, self.params).hashed(patient)

    def request(self, cohort: Cohort, patients: Path) -> Request:
        """The request in a forget CSV.

        Raises InputError where it names a patient whose request was served, and as `check_request` does.
        """
        if self.params.cohort.get("ids") == "hashed":
            cohort = replace(cohort, salt=run_salt(self.folder))
        request = Request(f"request-{len(self.ledger) + 1:03d}", in_cohort(cohort, read_forget_csv(patients)))
        served = self.served()
        for number, patient in enumerate(request.patients, start=1):
            if entry := served.get(self.hashed(patient)):
                raise InputError(
                    f"{patients}: patient {self.hashed(patient)} ({number} of {len(request.patients)} named) was "
                    f"forgotten by request {entry['number']:03d} on {entry['served'][:10]}; a request is served once"
                )
        return check_request(cohort, request)


def without_records(cohort: Cohort, rows: pd.Series, hashed: Callable[[str], str]) -> tuple[Cohort, int]:
    """The cohort with some of its rows (bool, n) destroyed: blank images, no report, no id that leads anywhere, on the
    side 'deleted'; and how many of them were there until now. The other rows keep their places.

    Raises InputError for a cohort whose images lie in a store that other runs share.
    """
    rows = rows & (cohort.table.split != DELETED)
    if not rows.any():
        return cohort, 0
    if cohort.store is not None:
        raise InputError(f"{cohort.store}: other runs share this image store; delete the files at their source")
    table, images = cohort.table.copy(), np.array(cohort.images)
    images[rows.to_numpy()] = 0
    studies = set(table.study_id[rows])
    for number, at in enumerate(table.index[rows]):
        table.loc[at, ["study_id", "image_id"]] = f"deleted-{at}", f"deleted-{at}-{number}"
        table.loc[at, "patient_id"] = hashed(table.patient_id[at])
    table.loc[rows, "split"] = DELETED
    reports = {study: text for study, text in cohort.reports.items() if study not in studies}
    reports |= dict.fromkeys(table.study_id[rows], "deleted")
    return replace(cohort, table=table, images=images, reports=reports), int(rows.sum())


def serve(model: Path, patients: Path, overrides: Mapping[str, Any] | None = None, *, progress: bool = True) -> Path:
    """Serve one request: run notebooks 03 and 04 on a stored model, write the report, then the ledger; return the
    request's folder.

    model: a run folder with a trained original. patients: a forget CSV (subject_id). overrides: of the run's params,
    such as the method or `audit.draws`. What a request that was cut short left behind is removed by the next.

    Raises InputError for a folder without a trained model, a patient who is not in training or was served before, and
    bad params; NotebookError where a notebook stops, in which case the model in use is still the one before.
    """
    served = ServedModel(Path(model).resolve())
    cohort = served.cohort()
    request = served.request(cohort, Path(patients))
    folder = served.folder / "requests" / f"{len(served.ledger) + 1:03d}"
    shutil.rmtree(folder, ignore_errors=True)
    run = prepare(served, cohort, request, folder, overrides or {})
    run_chain(folder / "request.yaml", folder, notebooks=["03_unlearn", "04_audit"], progress=progress)
    entry = {
        "number": len(served.ledger) + 1,
        "served": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "patients": sorted(served.hashed(patient) for patient in request.patients),
        "images": len(request.forget_rows(cohort)),
        "approach": run.unlearned_name,
        "checkpoint": str((run.stage("03_unlearn") / run.unlearned_name / "model").relative_to(served.folder)),
        "original_sha256": read_manifest(run.stage("02_train") / "original")["weights_sha256"],
        "unlearned_sha256": read_manifest(run.stage("03_unlearn") / run.unlearned_name / "model")["weights_sha256"],
    }
    report = write_report(run, entry, served.hashed)
    served._add(
        {**entry, "verdict": report["verdict"], "report": str((folder / "report.html").relative_to(served.folder))}
    )
    return folder


def prepare(served: ServedModel, cohort: Cohort, request: Request, folder: Path, overrides: Mapping[str, Any]) -> Run:
    """Lay out a request's run folder: its profile, and the stages 01_cohort and 02_train as notebooks 01 and 02 would
    have left them, with the model in use as the original."""
    values = _sections(served.params.as_dict())
    values |= {"retrained": 0, "beside": [], "request": {"patients": list(request.patients)}}
    write_text(folder / "request.yaml", yaml.safe_dump(values, sort_keys=False))
    write_text(folder / SALT, run_salt(served.folder) + "\n")  # by which the references know whom they saw
    run = open_run(folder / "request.yaml", folder, overrides)
    if overrides:  # the notebooks read one file
        write_text(folder / "request.yaml", yaml.safe_dump(_sections(run.params.as_dict()), sort_keys=False))
    first = run.start("01_cohort")
    cohort.save(first / "cohort")
    request.save(first / "request" / f"{request.name}.csv", cohort)
    run.finish("01_cohort", cohort_fingerprint=cohort.fingerprint)
    trained, now = run.start("02_train"), served.checkpoint()
    manifest = read_manifest(now)
    if manifest["cohort_fingerprint"] != cohort.fingerprint:
        raise InputError(
            f"{shown(now)}: was made on another cohort or split (fingerprint {manifest['cohort_fingerprint']}, the "
            f"run's has {cohort.fingerprint})"
        )
    base = read_manifest(served.folder / "02_train" / "original")
    with replace_when_whole(trained / "original") as temporary:
        shutil.copytree(now, temporary)
        # To this request it is the original, whatever made it; the cost to compare with is that of training.
        facts = {**manifest, "method": "original", "setting": "", "request": None, "seconds": base["seconds"]}
        write_text(temporary / MANIFEST, json.dumps(facts, indent=2) + "\n")
    hashes = {"original": manifest["weights_sha256"]}
    if run.needs_references:
        hashes |= lay_out_references(served, run, cohort, request)
    run.finish("02_train", cohort_fingerprint=cohort.fingerprint, models=hashes)
    return run


def lay_out_references(served: ServedModel, run: Run, cohort: Cohort, request: Request) -> dict[str, str]:
    """The reference models as they are now, in a request's 02_train; their hashes by name. One that is lost is trained
    again, on those who are still in training: no served patient is among them."""
    trained = run.stage("02_train")
    for name in run.reference_seeds():
        now = served.reference(name)
        if now is not None:
            with replace_when_whole(trained / name) as temporary:
                shutil.copytree(now, temporary)
    hashes = {}
    for name in run.reference_seeds():
        if (trained / name / MANIFEST).is_file():
            hashes[name] = read_manifest(trained / name)["weights_sha256"]
        else:
            hashes[name] = run.train(name, cohort, request, run.accelerator())["weights_sha256"]
    return hashes


def drift(model: Path) -> pd.DataFrame:
    """What became of a model over the requests it served: a row a request, with the columns of its audit's comparison
    (of the unlearned model), `request`, and earlier_auc, the loss attack's AUC on all patients of earlier requests."""
    served, rows = ServedModel(Path(model).resolve()), []
    for entry in served.ledger:
        audit = served.folder / "requests" / f"{entry['number']:03d}" / "04_audit"
        compared = pd.read_csv(audit / "comparison.csv").set_index("model").loc[entry["approach"]]
        row = {"request": entry["number"], "images": entry["images"], **compared.drop("seed").to_dict()}
        earlier = audit / "earlier.csv"
        if earlier.is_file():
            table = pd.read_csv(earlier)
            mine = table[(table.model == entry["approach"]) & (table.attack == "loss") & (table.level == "sample")]
            row["earlier_auc"] = mine.auc[mine.tower == "fused"].iloc[0]
        rows.append(row)
    return pd.DataFrame(rows)


def _sections(values: Mapping[str, Any]) -> dict[str, Any]:
    """Resolved params as a profile's file has them: the method inside its section."""
    sections = {name: values[name] for name in SECTIONS if name in values}
    return {**sections, "unlearning": {"method": values["method"], **values["unlearning"]}}
