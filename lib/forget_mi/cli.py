"""The command line: `python -m forget_mi run`, `forget`, `sweep`, `tune` and more. The Makefile
calls these commands."""

from __future__ import annotations

import argparse
import json
import sys
from argparse import ArgumentParser, Namespace
from pathlib import Path
from typing import Any

from forget_mi.errors import InputError

PATHS = ("cohort.root", "cohort.reports", "request.csv")


def main(arguments: list[str] | None = None) -> int:
    """Run a command; bad input and failing notebooks end with one line on standard error and exit
    status 1."""
    arguments = sys.argv[1:] if arguments is None else arguments
    end = arguments.index("--") if "--" in arguments else len(arguments)
    parser = make_parser()
    options = parser.parse_args(arguments[:end])
    options.snakemake = arguments[end + 1 :]
    if options.snakemake and options.command not in (
        "sweep",
        "tune",
        "shadows",
        "beyond",
        "calibration",
        "results",
    ):
        parser.error(f"{options.command} takes nothing after --")
    try:
        return options.function(options) or 0
    except (InputError, RuntimeError) as error:
        print(f"forget_mi: {error}", file=sys.stderr)
    return 1


def make_parser() -> ArgumentParser:
    """The parser of all commands; each sets `function`, which is given the options."""
    parser = ArgumentParser(prog="forget_mi", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    _add_runs(commands)
    _add_studies(commands)
    _add_requests(commands)
    _add_documents(commands)
    _add_jobs(commands)
    return parser


def _add(
    commands, name: str, function, help: str | None = None, **arguments: Any
) -> ArgumentParser:
    """A command with `--set` and `--data` where `profile` is among its arguments. arguments:
    positional ones."""
    parser = commands.add_parser(name, help=help)
    for argument, settings in arguments.items():
        parser.add_argument(argument, **settings)
    parser.set_defaults(function=function, data=None, set=[])
    return parser


def _add_profile_options(parser: ArgumentParser) -> None:
    parser.add_argument("profile", help="a name in params/, or a path to a YAML file")
    parser.add_argument("--data", type=Path, help="the data folder (cohort.root)")
    _add_set(parser)


def _add_set(parser: ArgumentParser) -> None:
    parser.add_argument(
        "--set", action="append", default=[], metavar="NAME=VALUE", help="override a parameter"
    )


def overrides_of(options: Namespace) -> dict[str, Any]:
    """What the command line changes in the profile. Paths are relative to where the command was
    typed."""
    import yaml

    overrides = {}
    for item in options.set:
        name, separator, value = item.partition("=")
        if not separator:
            raise InputError(f"--set {item!r}: write NAME=VALUE, as in unlearning.epochs=4")
        overrides[name] = yaml.safe_load(value)
        if name in PATHS and overrides[name]:
            overrides[name] = str(Path(value).resolve())
    if options.data is not None:
        overrides["cohort.root"] = str(options.data.resolve())
    return overrides


# ---- runs ----------------------------------------------------------------------------------------


def _add_runs(commands) -> None:
    run = _add(commands, "run", _run, "run the notebooks on a profile")
    run.add_argument("--run-dir", help="the run folder (default runs/<profile>)")
    _add_profile_options(run)
    shadows = _add(commands, "shadows", _shadows, "train the shadow models of a profile's cohort")
    _add_profile_options(shadows)
    memory = _add(commands, "memory", _memory, "estimate what a profile's steps need on a card")
    _add_profile_options(memory)
    memory.add_argument("--image-size", type=int, help="in pixels, where the cohort says none")
    export = _add(commands, "export", _export, "write a profile's cohort in MIMIC-CXR's layout")
    _add_profile_options(export)
    export.add_argument("folder", type=Path)
    export.add_argument("--kind", choices=("dicom", "jpg"), default="dicom")


def _memory(options: Namespace) -> None:
    from forget_mi.runs import load_profile, memory_table, read_yaml

    overrides = overrides_of(options)
    if "root" in (read_yaml(options.profile).get("cohort") or {}):
        overrides.setdefault("cohort.root", ".")  # nothing is read: the data may be elsewhere
    params = load_profile(options.profile, overrides)
    table = memory_table(params, options.image_size)
    print(f"estimates, {table.attrs['about']}\n{table.to_string(index=False)}")


def _run(options: Namespace) -> None:
    from forget_mi.runs import load_profile

    # Before the notebooks' packages are imported, which takes seconds.
    load_profile(options.profile, overrides_of(options))
    from forget_mi.plots import print_comparison
    from forget_mi.runs import display_path, run_chain

    run = run_chain(options.profile, options.run_dir, overrides_of(options))
    print_comparison(run.folder / "comparison.csv")
    print(f"\nThe executed notebooks, models and tables lie in {display_path(run.folder)}.")


def _shadows(options: Namespace) -> int:
    from forget_mi.studies import run_shadows

    return run_shadows(options.profile, overrides_of(options), options.snakemake)


def _export(options: Namespace) -> None:
    from forget_mi.data import export_cohort, split_by_patient
    from forget_mi.runs import load_profile, load_source

    params = load_profile(options.profile, overrides_of(options))
    cohort = split_by_patient(load_source(params), params.split)
    labels = export_cohort(cohort, options.folder, options.kind)
    print(
        f"{len(labels)} images of {labels.subject_id.nunique()} patients lie in {options.folder}."
    )


# ---- studies -------------------------------------------------------------------------------------


def _add_studies(commands) -> None:
    sweep = _add(commands, "sweep", _sweep, "run the grid of a profile through Snakemake")
    tune = _add(commands, "tune", _tune, "choose each approach's hyper-parameters for a profile")
    beyond = _add(commands, "beyond", _beyond, "the studies past the paper, and figures/beyond.csv")
    calibration = _add(
        commands, "calibration", _calibration, "the study of the test of one patient"
    )
    calibration.add_argument("--models", type=int, default=48, help="shadow models in all")
    year = _add(commands, "year", _year, "a simulated year of requests under every policy")
    year.add_argument("--policies", nargs="+", default=[], help="some of them (all)")
    _add_profile_options(year)
    ablation = _add(commands, "ablation", _ablation, "what helps, on a profile's tuning seeds")
    _add_profile_options(ablation)
    for command in (sweep, tune, beyond, calibration):
        _add_profile_options(command)
        command.epilog = "What follows -- goes to snakemake, as in: sweep demo -- --dry-run"
    for command in (sweep, tune):
        command.add_argument("--folder", help="where it goes")


def _sweep(options: Namespace) -> int:
    from forget_mi.studies import run_sweep

    return run_sweep(options.profile, options.folder, overrides_of(options), options.snakemake)


def _tune(options: Namespace) -> int:
    from forget_mi.studies import run_tuning

    return run_tuning(options.profile, options.folder, overrides_of(options), options.snakemake)


def _ablation(options: Namespace) -> None:
    from forget_mi.studies import rebuild_ablation

    rebuild_ablation(options.profile, overrides_of(options))


def _beyond(options: Namespace) -> int:
    from forget_mi.studies import finish_beyond

    return finish_beyond(options.profile, overrides_of(options), options.snakemake)


def _calibration(options: Namespace) -> int:
    from forget_mi.studies import rebuild_calibration, run_shadows

    overrides = overrides_of(options)
    more = {**overrides, "shadows.count": options.models}
    code = run_shadows(options.profile, more, options.snakemake)
    if code == 0:
        rebuild_calibration(options.profile, overrides, options.models)
    return code


def _year(options: Namespace) -> None:
    from forget_mi.studies import rebuild_year

    rebuild_year(options.profile, overrides_of(options), options.policies)


# ---- requests ------------------------------------------------------------------------------------


def _add_requests(commands) -> None:
    model = {"type": Path, "help": "a run folder with a trained model, such as runs/demo"}
    patients = {"type": Path, "help": "a forget CSV: a column subject_id, a row a patient"}
    forget = _add(
        commands,
        "forget",
        _forget,
        "serve a deletion request: unlearn, audit, report",
        model=model,
        patients=patients,
    )
    _add_set(forget)
    forget.add_argument(
        "--delete-records",
        action="store_true",
        help="then destroy the patients' records in the run",
    )
    _add(
        commands,
        "delete-records",
        _delete_records,
        "destroy what a run still has of forgotten patients",
        model=model,
    )
    service = _add(
        commands,
        "serve-requests",
        _serve_requests,
        "take forget CSVs from an inbox and serve them by a policy",
        model=model,
    )
    service.add_argument("inbox", type=Path, help="a folder into which forget CSVs are dropped")
    service.add_argument(
        "--policy",
        default="at_once",
        help="at_once (default), weekly, monthly, or one that retrains as well (an unknown name "
        "lists them); a file whose name begins with 'urgent' never waits",
    )
    service.add_argument("--once", action="store_true", help="serve what is due, and end")
    service.add_argument("--wait", action="store_true", help="for another service of the model")
    service.add_argument("--seconds", type=float, default=10.0, help="between looks at the inbox")
    _add_set(service)
    _add(
        commands,
        "verify-ledger",
        _verify_ledger,
        "say whether a line of a run's ledger was changed, dropped or reordered",
        model=model,
    )
    pack = _add(
        commands,
        "pack",
        _pack,
        "a run's model as a folder for others: weights, card, exports",
        model=model,
    )
    pack.add_argument("folder", type=Path, help="where it goes")
    pack.add_argument("--name", help="original, or an approach (default: the run's method)")
    pack.add_argument(
        "--export", nargs="*", default=[], metavar="FORMAT", help="torchscript, torch_export, onnx"
    )


def _forget(options: Namespace) -> None:
    from forget_mi.requests import ServedModel, serve
    from forget_mi.runs import display_path

    model = options.model.resolve()
    folder = serve(model, options.patients.resolve(), overrides_of(options))
    entry = ServedModel(model).ledger[-1]
    asked = f"{len(entry['patients'])} patients, {entry['images']} images"
    print(f"\nrequest {entry['number']:03d}: {asked}: {entry['verdict']}\n{entry['in_words']}")
    print(
        f"report: {display_path(folder / 'report.html')}\nmodel:  "
        f"{display_path(model / entry['checkpoint'])}"
    )
    if "wear" in entry:
        print(f"wear:   {entry['wear']['in_words']}")
    if options.delete_records:
        _delete_records(options)


def _serve_requests(options: Namespace) -> None:
    from forget_mi.requests import Service

    service = Service(
        options.model.resolve(), options.inbox.resolve(), options.policy, overrides_of(options)
    )
    print(f"serving {options.model} by policy {options.policy}; status: "
          f"{options.model / 'requests' / 'status.html'}")  # fmt: skip
    service.run(once=options.once, wait=options.wait, seconds=options.seconds)


def _verify_ledger(options: Namespace) -> int:
    from forget_mi.requests import ServedModel, ledger_problems

    model = options.model.resolve()
    problems = ledger_problems(model)
    for problem in problems:
        print(problem)
    if not problems:
        print(f"{len(ServedModel(model).ledger)} lines, each follows the one before")
    return int(bool(problems))


def _delete_records(options: Namespace) -> None:
    from forget_mi.requests import delete_records

    print(f"records destroyed: {delete_records(options.model.resolve())}")


def _pack(options: Namespace) -> None:
    from forget_mi.models import export_model
    from forget_mi.requests import ServedModel, pack_model
    from forget_mi.runs import Run

    run = Run(options.model.resolve(), ServedModel(options.model.resolve()).params)
    model, batch = pack_model(run, options.name or run.unlearned_name, options.folder)
    print(f"{options.folder}: model.safetensors, config.json, README.md")
    exported = (
        export_model(model, options.folder, batch, tuple(options.export)) if options.export else {}
    )
    for name, difference in exported.items():
        print(f"{options.folder}: {name}, differs from the model by at most {difference:.1g}")


# ---- documents -----------------------------------------------------------------------------------


def _add_documents(commands) -> None:
    names = {"nargs": "*", "help": "some of them, such as 05_compare course/01_memorisation (all)"}
    _add(commands, "notebooks", _notebooks, "rebuild the committed notebooks' outputs", names=names)
    _add(
        commands,
        "reference",
        _reference,
        "rebuild tests/reference, which the tests compare printed results with",
    )
    results = _add(
        commands,
        "results",
        _results,
        "finish a profile's sweep; rebuild the figures and tables made from it",
    )
    _add_profile_options(results)
    real = _add(
        commands,
        "real-results",
        _real_results,
        "run a real cohort's profile and rebuild its table in the docs",
    )
    real.add_argument("profile", help="covid, open-i or open-i-minilm")
    real.add_argument("--data", type=Path, help="the data folder (cohort.root)")


def _notebooks(options: Namespace) -> None:
    from forget_mi.course import EXECUTED, write_exercises
    from forget_mi.runs import NOTEBOOKS, ROOT, SIDE_NOTEBOOKS, rebuild_notebooks

    known = (*NOTEBOOKS, *SIDE_NOTEBOOKS, "explore", *EXECUTED)
    unknown = [name for name in options.names if name not in known]
    if unknown:
        raise InputError(f"notebook {unknown[0]!r}: allowed are {', '.join(known)}")
    rebuild_notebooks(options.names or known)
    write_exercises(ROOT / "notebooks" / "course")


def _reference(_: Namespace) -> None:
    from forget_mi.runs import NOTEBOOKS, ROOT, SIDE_NOTEBOOKS, rebuild_notebooks

    # neg_grad: on so few records a trial of Forget-MI costs as much as retraining.
    parameters = {
        "profile": "tiny",
        "run_dir": "runs/reference",
        "approach": "neg_grad",
        "patients": 60,
        "epochs": 2,
    }
    rebuild_notebooks((*NOTEBOOKS, *SIDE_NOTEBOOKS), ROOT / "tests" / "reference", parameters)


def _results(options: Namespace) -> int:
    from forget_mi.studies import rebuild_real_study, rebuild_results

    overrides = overrides_of(options)
    if options.profile == "demo":
        if overrides:
            raise InputError(
                "results demo: its tables are of the profile as it stands, not with "
                f"{', '.join(overrides)} changed"
            )
        return rebuild_results(options.profile, options.snakemake)
    return rebuild_real_study(options.profile, overrides, options.snakemake)


def _real_results(options: Namespace) -> None:
    from forget_mi.studies import rebuild_real_results

    rebuild_real_results(options.profile, options.data and options.data.resolve())


# ---- jobs, as the workflow calls them ------------------------------------------------------------


def _add_jobs(commands) -> None:
    plain = {"profile": {}}
    sweep_job = _add(commands, "sweep-job", _sweep_job, **plain, notebook={})
    sweep_job.add_argument("run", nargs="?")
    sweep_job.add_argument("approach", nargs="?")
    tune_one = _add(commands, "tune-one", _tune_one, **plain, approach={})
    part = _add(
        commands,
        "beyond-part",
        _beyond_part,
        **plain,
        part={},
        seed={"type": int},
        table={"type": Path},
    )
    for job in (sweep_job, tune_one, part):
        job.add_argument("--folder", required=True)
    shadow = _add(
        commands, "shadow-one", _shadow_one, **plain, number={"type": int}, outcome={"type": Path}
    )
    shadow.add_argument("--run-dir", required=True)
    for job in (sweep_job, tune_one, part, shadow):
        job.add_argument(
            "--set-json",
            type=json.loads,
            default={},
            metavar="{NAME: VALUE, ...}",
            help=argparse.SUPPRESS,
        )


def _sweep_job(options: Namespace) -> None:
    from forget_mi.studies import run_job

    run_job(
        options.profile,
        options.folder,
        options.set_json,
        options.notebook,
        options.run,
        options.approach,
    )


def _tune_one(options: Namespace) -> None:
    from forget_mi.runs import run_tuning_notebook

    run_tuning_notebook(options.profile, options.approach, options.folder, options.set_json)


def _beyond_part(options: Namespace) -> None:
    from forget_mi.studies import run_beyond_part

    run_beyond_part(
        options.profile, options.folder, options.part, options.seed, options.table, options.set_json
    )


def _shadow_one(options: Namespace) -> None:
    from forget_mi.studies import run_shadow

    run_shadow(options.profile, options.run_dir, options.number, options.outcome, options.set_json)
