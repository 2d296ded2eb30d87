"""`python -m forget_mi run`, `forget`, `sweep`, `tune`, `beyond`, `results` and more: what the Makefile calls."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import yaml

from forget_mi.errors import InputError


def main(arguments: list[str] | None = None) -> int:
    """Run a command; bad input and failing notebooks end with one line on standard error and exit status 1."""
    parser = argparse.ArgumentParser(prog="forget_mi", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    run = commands.add_parser("run", help="run the notebooks on a profile")
    run.add_argument("profile", help="a name in params/, or a path to a YAML file")
    run.add_argument("--data", type=Path, help="the data folder (cohort.root)")
    run.add_argument("--run-dir", help="the run folder (default runs/<profile>)")
    run.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="override a parameter")
    sweep = commands.add_parser("sweep", help="run the grid of a profile through Snakemake")
    tune = commands.add_parser("tune", help="choose each approach's hyper-parameters for a profile")
    shadows = commands.add_parser("shadows", help="train the shadow models of a profile's cohort")
    beyond = commands.add_parser("beyond", help="the studies past the paper, and figures/beyond.csv")
    for command in (sweep, tune, shadows, beyond):
        command.add_argument("profile", help="a name in params/, or a path to a YAML file")
        command.add_argument("--data", type=Path, help="the data folder (cohort.root)")
        if command in (sweep, tune):
            command.add_argument("--folder", help="where it goes")
        command.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="override a parameter")
        command.epilog = "What follows -- goes to snakemake, as in: sweep demo -- --dry-run"
    forget = commands.add_parser("forget", help="serve a deletion request: unlearn, audit, report")
    forget.add_argument("model", type=Path, help="a run folder with a trained model, such as runs/demo")
    forget.add_argument("patients", type=Path, help="a forget CSV: a column subject_id, a row a patient")
    forget.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="override a parameter")
    forget.add_argument("--delete-records", action="store_true", help="then destroy the patients' records in the run")
    forget.set_defaults(data=None)
    delete = commands.add_parser("delete-records", help="destroy what a run still has of the patients it was to forget")
    delete.add_argument("model", type=Path, help="a run folder whose requests were served")
    job = commands.add_parser("sweep-job", help="one job of a sweep, as the workflow calls it")
    job.add_argument("profile")
    job.add_argument("notebook")
    job.add_argument("run", nargs="?")
    job.add_argument("approach", nargs="?")
    tune_one = commands.add_parser("tune-one", help="the tuning of one approach, as the workflow calls it")
    tune_one.add_argument("profile")
    tune_one.add_argument("approach")
    for command in (job, tune_one):
        command.add_argument("--folder", required=True)
        command.add_argument("--set-json", type=json.loads, default={}, metavar="{NAME: VALUE, ...}")
    shadow_one = commands.add_parser("shadow-one", help="train one shadow model, as the workflow calls it")
    shadow_one.add_argument("profile")
    shadow_one.add_argument("number", type=int)
    shadow_one.add_argument("outcome", type=Path)
    shadow_one.add_argument("--run-dir", required=True)
    shadow_one.add_argument("--set-json", type=json.loads, default={}, metavar="{NAME: VALUE, ...}")
    part = commands.add_parser("beyond-part", help="one study of make beyond, as the workflow calls it")
    part.add_argument("profile")
    part.add_argument("part")
    part.add_argument("seed", type=int)
    part.add_argument("table", type=Path)
    part.add_argument("--folder", required=True)
    part.add_argument("--set-json", type=json.loads, default={}, metavar="{NAME: VALUE, ...}")
    export = commands.add_parser("export", help="write a profile's cohort in MIMIC-CXR's layout")
    export.add_argument("profile")
    export.add_argument("folder", type=Path)
    export.add_argument("--kind", choices=("dicom", "jpg"), default="dicom")
    export.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="override a parameter")
    export.add_argument("--data", type=Path, help="the data folder (cohort.root)")
    pack = commands.add_parser("pack", help="a run's model as a folder for others: weights, card, exports")
    pack.add_argument("model", type=Path, help="a run folder, such as runs/demo")
    pack.add_argument("folder", type=Path, help="where it goes")
    pack.add_argument("--name", help="original, or an approach (default: the run's method)")
    pack.add_argument("--export", nargs="*", default=[], metavar="FORMAT", help="torchscript, torch_export, onnx")
    dag = commands.add_parser("dag", help="rebuild figures/workflow.png")
    dag.add_argument("profile")
    real = commands.add_parser("real-results", help="run a real cohort's profile and rebuild the README's table of it")
    real.add_argument("profile", help="covid or open-i")
    real.add_argument("--data", type=Path, help="the data folder (cohort.root)")
    commands.add_parser("drift", help="ten requests one after another, and figures/drift.csv and .png")
    notebooks = commands.add_parser("notebooks", help="rebuild the committed notebooks' outputs")
    notebooks.add_argument("names", nargs="*", help="some of them, such as 05_compare course/01_memorisation (all)")
    commands.add_parser("reference", help="rebuild tests/reference, which the tests compare printed results with")
    commands.add_parser("results", help="rebuild figures/results.csv and the figures made from it")
    arguments = sys.argv[1:] if arguments is None else arguments
    at = arguments.index("--") if "--" in arguments else len(arguments)
    options = parser.parse_args(arguments[:at])
    options.snakemake = arguments[at + 1 :]
    if options.snakemake and options.command not in ("sweep", "tune", "shadows", "beyond"):
        parser.error(f"{options.command} takes nothing after --")
    try:
        return COMMANDS[options.command](options)
    except InputError as error:
        print(f"forget_mi: {error}", file=sys.stderr)
    except RuntimeError as error:
        print(f"forget_mi: {error}", file=sys.stderr)
    return 1


def _overrides(options: argparse.Namespace) -> dict[str, Any]:
    """What the command line changes in the profile."""
    overrides = {}
    for item in options.set:
        name, separator, value = item.partition("=")
        if not separator:
            raise InputError(f"--set {item!r}: write NAME=VALUE, as in unlearning.epochs=4")
        overrides[name] = yaml.safe_load(value)
        if name in ("cohort.root", "cohort.reports", "request.csv") and overrides[name]:
            overrides[name] = str(Path(value).resolve())  # relative to where the command was typed
        if name in ("request.csv", "request.patients"):
            overrides.setdefault("request.fraction", None)  # instead of the profile's draw
    if options.data is not None:
        overrides["cohort.root"] = str(options.data.resolve())
    return overrides


def _run(options: argparse.Namespace) -> int:
    from forget_mi.plots.comparison import print_comparison
    from forget_mi.runs.chain import run_chain
    from forget_mi.runs.project import shown

    run = run_chain(options.profile, options.run_dir, _overrides(options))
    print_comparison(run.folder / "comparison.csv")
    print(f"\nThe executed notebooks, models and tables lie in {shown(run.folder)}.")
    return 0


def _sweep(options: argparse.Namespace) -> int:
    from forget_mi.studies.workflow import run_sweep

    return run_sweep(options.profile, options.folder, _overrides(options), options.snakemake)


def _tune(options: argparse.Namespace) -> int:
    from forget_mi.studies.workflow import run_tuning

    return run_tuning(options.profile, options.folder, _overrides(options), options.snakemake)


def _beyond(options: argparse.Namespace) -> int:
    from forget_mi.studies.workflow import run_beyond

    return run_beyond(options.profile, _overrides(options), options.snakemake)


def _beyond_part(options: argparse.Namespace) -> int:
    from forget_mi.studies.workflow import run_beyond_part

    run_beyond_part(options.profile, options.folder, options.part, options.seed, options.table, options.set_json)
    return 0


def _tune_one(options: argparse.Namespace) -> int:
    from forget_mi.runs.chain import run_tuning_notebook

    run_tuning_notebook(options.profile, options.approach, options.folder, options.set_json)
    return 0


def _sweep_job(options: argparse.Namespace) -> int:
    from forget_mi.studies.workflow import run_job

    run_job(options.profile, options.folder, options.set_json, options.notebook, options.run, options.approach)
    return 0


def _shadow_one(options: argparse.Namespace) -> int:
    from forget_mi.studies.workflow import run_shadow

    run_shadow(options.profile, options.run_dir, options.number, options.outcome, options.set_json)
    return 0


def _shadows(options: argparse.Namespace) -> int:
    from forget_mi.studies.workflow import run_shadows

    return run_shadows(options.profile, _overrides(options), options.snakemake)


def _forget(options: argparse.Namespace) -> int:
    from forget_mi.requests.serve import serve
    from forget_mi.requests.served_model import ServedModel
    from forget_mi.runs.project import shown

    folder = serve(options.model.resolve(), options.patients.resolve(), _overrides(options))
    model = options.model.resolve()
    entry = ServedModel(model).ledger[-1]
    asked = f"{len(entry['patients'])} patients, {entry['images']} images"
    print(f"\nrequest {entry['number']:03d}: {asked}: {entry['verdict']}")
    print(f"report: {shown(folder / 'report.html')}\nmodel:  {shown(model / entry['checkpoint'])}")
    if options.delete_records:
        return _delete_records(options)
    return 0


def _delete_records(options: argparse.Namespace) -> int:
    from forget_mi.requests.served_model import ServedModel

    print(f"records destroyed: {ServedModel(options.model.resolve()).delete_records()}")
    return 0


def _export(options: argparse.Namespace) -> int:
    from forget_mi.data.cohorts import load_cohort
    from forget_mi.data.export import export
    from forget_mi.data.splits import split_by_patient
    from forget_mi.runs.profiles import load_profile

    params = load_profile(options.profile, _overrides(options))
    labels = export(split_by_patient(load_cohort(params.cohort), params.split), options.folder, options.kind)
    print(f"{len(labels)} images of {labels.subject_id.nunique()} patients lie in {options.folder}.")
    return 0


def _pack(options: argparse.Namespace) -> int:
    from forget_mi.models.export import export_model
    from forget_mi.requests.card import pack
    from forget_mi.requests.served_model import ServedModel
    from forget_mi.runs.run import Run

    run = Run(options.model.resolve(), ServedModel(options.model.resolve()).params)
    model, batch = pack(run, options.name or run.unlearned_name, options.folder)
    print(f"{options.folder}: model.safetensors, config.json, README.md")
    exported = export_model(model, options.folder, batch, tuple(options.export)) if options.export else {}
    for name, apart in exported.items():
        print(f"{options.folder}: {name}, differs from the model by at most {apart:.1g}")
    return 0


def _dag(options: argparse.Namespace) -> int:
    from forget_mi.runs.project import ROOT
    from forget_mi.studies.workflow import draw_workflow

    draw_workflow(options.profile, ROOT / "figures" / "workflow.png")
    return 0


def _notebooks(options: argparse.Namespace) -> int:
    from forget_mi.course.notebooks import EXECUTED, write_exercises
    from forget_mi.runs.chain import NOTEBOOKS, SIDE_NOTEBOOKS
    from forget_mi.runs.notebooks import rebuild_notebooks
    from forget_mi.runs.project import ROOT

    known = (*NOTEBOOKS, *SIDE_NOTEBOOKS, "explore", *EXECUTED)

    unknown = [name for name in options.names if name not in known]
    if unknown:
        raise InputError(f"notebook {unknown[0]!r}: allowed are {', '.join(known)}")
    rebuild_notebooks(options.names or known)
    write_exercises(ROOT / "notebooks" / "course")
    return 0


def _results(_: argparse.Namespace) -> int:
    from forget_mi.studies.results import rebuild_results

    return rebuild_results()


def _drift(_: argparse.Namespace) -> int:
    from forget_mi.studies.results import rebuild_drift

    rebuild_drift()
    return 0


def _reference(_: argparse.Namespace) -> int:
    from forget_mi.runs.chain import NOTEBOOKS, SIDE_NOTEBOOKS
    from forget_mi.runs.notebooks import rebuild_notebooks
    from forget_mi.runs.project import ROOT

    # neg_grad: on so few records a trial of Forget-MI costs as much as retraining.
    parameters = {"profile": "tiny", "run_dir": "runs/reference", "approach": "neg_grad", "patients": 60, "epochs": 2}
    rebuild_notebooks((*NOTEBOOKS, *SIDE_NOTEBOOKS), ROOT / "tests" / "reference", parameters)
    return 0


def _real_results(options: argparse.Namespace) -> int:
    from forget_mi.studies.results import rebuild_real_results

    rebuild_real_results(options.profile, options.data and options.data.resolve())
    return 0


COMMANDS = {
    "run": _run,
    "sweep": _sweep,
    "tune": _tune,
    "sweep-job": _sweep_job,
    "tune-one": _tune_one,
    "shadow-one": _shadow_one,
    "shadows": _shadows,
    "beyond": _beyond,
    "beyond-part": _beyond_part,
    "forget": _forget,
    "drift": _drift,
    "dag": _dag,
    "delete-records": _delete_records,
    "export": _export,
    "pack": _pack,
    "real-results": _real_results,
    "notebooks": _notebooks,
    "reference": _reference,
    "results": _results,
}
