"""Deletion requests to a model that is in use: a request comes in, an unlearned model and its
evidence go out.

    <run>/requests/ledger.json      what was served, in order; hashed ids only
    <run>/requests/001/             a run folder of its own: notebooks 03 and 04 run in it
        request.yaml                its profile: the run's, with this request and without retrained
        models 01_cohort, 02_train         the cohort and the model as they were when the request
        came in 03_unlearn, 04_audit        what was done, and the evidence report.html, report.json

Requests go from model to model: the second starts from what the first left. Patients whose request
was served are no longer in training (their side is 'forgotten'): no later request learns from them,
and while their records are there, each audit looks at them again.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from forget_mi.data import Cohort, Request, check_request
from forget_mi.errors import InputError
from forget_mi.files import replace_when_whole, write_text
from forget_mi.models import MANIFEST, WEIGHTS, read_manifest
from forget_mi.requests.report import write_report
from forget_mi.requests.served_model import ServedModel, profile_sections
from forget_mi.requests.wear import wear_of
from forget_mi.runs import SALT, Run, display_path, open_run, run_chain, run_salt, train_model
from forget_mi.training import make_accelerator


def serve(
    model: Path,
    patients: Path,
    overrides: Mapping[str, Any] | None = None,
    *,
    afresh: bool = False,
    progress: bool = True,
) -> Path:
    """Serve one request: run notebooks 03 and 04 on a stored model, write the report, then the
    ledger; return the request's folder.

    model: a run folder with a trained original. patients: a forget CSV (subject_id). overrides: of
    the run's params, such as the method or `audit.draws`. afresh: with everyone served since the
    last training, in one request, from the model as it was trained. What a request that was cut
    short left behind is removed by the next.

    Raises InputError for a folder without a trained model, a patient who is not in training or was
    served before, and bad params, and afresh where the records or the model as it was trained were
    destroyed; NotebookError where a notebook stops, in which case the model in use is still the one
    before.
    """
    served = ServedModel(Path(model).resolve())
    cohort = served.cohort()
    request = served.request(cohort, Path(patients))
    since = served.trained_since()
    if afresh and since < len(served.ledger):
        return _serve_again(served, since, request.patients, overrides or {}, progress)
    return _serve(served, cohort, request, overrides or {}, progress)


def serve_together(
    model: Path,
    overrides: Mapping[str, Any] | None = None,
    *,
    afresh: bool = False,
    progress: bool = True,
) -> Path:
    """Serve everyone whose request was served by itself since the last retraining, or since the
    last call, once more: in one request, from the model as it was before them. Return its folder.

    afresh: everyone since the last training, however served, from the model as it was trained.

    One request wears a model less than several do. The line of the ledger says in `again` which
    requests it stands for. Raises InputError where there is none, or where their records or the
    model before them were destroyed since; else as `serve` does.
    """
    now = ServedModel(Path(model).resolve())
    if now.alone_since() == len(now.ledger):
        raise InputError(
            f"MODEL {display_path(now.folder)}: no request was served by itself since the last "
            "retraining, or since all were served together"
        )
    since = now.trained_since() if afresh else now.alone_since()
    return _serve_again(now, since, (), overrides or {}, progress)


def _serve_again(
    now: ServedModel, since: int, more: Sequence[str], overrides: Mapping[str, Any], progress: bool
) -> Path:
    """Serve the patients of all requests after the first so many lines of the ledger, and some
    more, in one request, from the model as it was then."""
    before, again = ServedModel(now.folder, since), now.ledger[since:]
    if not (before.checkpoint() / WEIGHTS).is_file():
        raise InputError(
            f"{display_path(before.checkpoint())}: this model, before requests "
            f"{again[0]['number']:03d} to {again[-1]['number']:03d}, was destroyed with their "
            "records; they can't be served together any more"
        )
    cohort = before.cohort()
    hashes = {patient for entry in again for patient in entry["patients"]}
    ids = cohort.table.patient_id.unique()
    patients = {str(each) for each in ids if before.hashed(each) in hashes} | set(more)
    name = f"request-{len(now.ledger) + 1:03d}"
    request = check_request(cohort, Request(name, tuple(sorted(patients))))
    numbers = [entry["number"] for entry in again]
    return _serve(before, cohort, request, overrides, progress, again=numbers)


def _serve(
    served: ServedModel,
    cohort: Cohort,
    request: Request,
    overrides: Mapping[str, Any],
    progress: bool,
    again: Sequence[int] = (),
) -> Path:
    """Serve a request by a model, as it is or as it was; add a line to the ledger as it is."""
    now = ServedModel(served.folder)
    number = len(now.ledger) + 1
    folder = served.folder / "requests" / f"{number:03d}"
    shutil.rmtree(folder, ignore_errors=True)
    run = prepare_request(served, cohort, request, folder, overrides)
    run_chain(
        folder / "request.yaml", folder, notebooks=["03_unlearn", "04_audit"], progress=progress
    )
    unlearned = run.stage("03_unlearn") / run.unlearned_name / "model"
    entry = {
        "number": number,
        "served": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "patients": sorted(served.hashed(patient) for patient in request.patients),
        "images": len(request.forget_rows(cohort)),
        "approach": run.unlearned_name,
        "checkpoint": str(unlearned.relative_to(served.folder)),
        "original_sha256": read_manifest(run.stage("02_train") / "original")["weights_sha256"],
        "unlearned_sha256": read_manifest(unlearned)["weights_sha256"],
    }
    if again:
        entry["again"] = list(again)
    if (wear := wear_of(served, unlearned, cohort, request)) is not None:
        entry["wear"] = wear
    report = write_report(run, entry, served.hashed)
    now.add(
        {
            **entry,
            "verdict": report["verdict"],
            "in_words": report["in_words"],
            "verdicts": {row["patient"]: row["verdict"] for row in report["patients"]},
            "report": str((folder / "report.html").relative_to(served.folder)),
        }
    )
    return folder


def retrain(model: Path) -> Path:
    """Train the model again, from scratch, without everyone whose request was served, and put it
    into use; a line of the ledger that names no patient. Return its folder below requests/.

    The reference models are trained again with the next request that needs them, on those who are
    then in training. Raises InputError where nobody was served.
    """
    served = ServedModel(Path(model).resolve())
    if not served.served():
        raise InputError(
            f"MODEL {display_path(served.folder)}: no request was served, so nobody is to be left "
            "out of a retraining"
        )
    cohort, number = served.cohort(), len(served.ledger) + 1
    folder = served.folder / "requests" / f"{number:03d}"
    shutil.rmtree(folder, ignore_errors=True)
    write_text(folder / SALT, run_salt(served.folder) + "\n")
    run = Run(folder, served.params)
    accelerator = make_accelerator(run.params.device)
    manifest = train_model(run, "original", cohort, Request("retraining", ()), accelerator)
    before = read_manifest(served.checkpoint())
    gone = len(served.served())
    served.add(
        {
            "number": number,
            "served": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
            "patients": [],
            "images": 0,
            "approach": "retrain",
            "checkpoint": str((folder / "02_train" / "original").relative_to(served.folder)),
            "original_sha256": before["weights_sha256"],
            "unlearned_sha256": manifest["weights_sha256"],
            "verdict": "retrained",
            "in_words": f"trained again without the {gone} patients served so far",
            "verdicts": {},
            "report": "",
        }
    )
    return folder


def prepare_request(
    served: ServedModel,
    cohort: Cohort,
    request: Request,
    folder: Path,
    overrides: Mapping[str, Any],
) -> Run:
    """Lay out a request's run folder: its profile, and the stages 01_cohort and 02_train as
    notebooks 01 and 02 would have left them, with the model in use as the original."""
    values = profile_sections(served.params.as_dict())
    values |= {"retrained": 0, "beside": [], "request": {"patients": list(request.patients)}}
    write_text(folder / "request.yaml", yaml.safe_dump(values, sort_keys=False))
    write_text(
        folder / SALT, run_salt(served.folder) + "\n"
    )  # by which the references know whom they saw
    run = open_run(folder / "request.yaml", folder, overrides)
    if overrides:  # the notebooks read one file
        write_text(
            folder / "request.yaml",
            yaml.safe_dump(profile_sections(run.params.as_dict()), sort_keys=False),
        )
    first = run.start("01_cohort")
    cohort.save(first / "cohort")
    request.save(first / "request" / f"{request.name}.csv", cohort)
    run.finish("01_cohort", cohort_fingerprint=cohort.fingerprint)
    trained, now = run.start("02_train"), served.checkpoint()
    manifest = read_manifest(now)
    if manifest["cohort_fingerprint"] != cohort.fingerprint:
        raise InputError(
            f"{display_path(now)}: was made on another cohort or split (fingerprint "
            f"{manifest['cohort_fingerprint']}, the run's has {cohort.fingerprint})"
        )
    base = read_manifest(served.folder / "02_train" / "original")
    with replace_when_whole(trained / "original") as temporary:
        shutil.copytree(now, temporary)
        # To this request it is the original, whatever made it; the cost to compare with is that of
        # training.
        facts = {
            **manifest,
            "method": "original",
            "setting": "",
            "request": None,
            "seconds": base["seconds"],
        }
        write_text(temporary / MANIFEST, json.dumps(facts, indent=2) + "\n")
    hashes = {"original": manifest["weights_sha256"]}
    if run.needs_references:
        hashes |= copy_references(served, run, cohort, request)
    run.finish("02_train", cohort_fingerprint=cohort.fingerprint, models=hashes)
    return run


def copy_references(
    served: ServedModel, run: Run, cohort: Cohort, request: Request
) -> dict[str, str]:
    """The reference models as they are now, in a request's 02_train; their hashes by name. One
    that is lost is trained again, on those who are still in training: no served patient is among
    them."""
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
            manifest = train_model(run, name, cohort, request, make_accelerator(run.params.device))
            hashes[name] = manifest["weights_sha256"]
    return hashes
