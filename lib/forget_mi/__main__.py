"""`python -m forget_mi run|notebooks|reference|results|covid-results`: what the Makefile calls."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import yaml

from forget_mi.errors import InputError


def main(arguments: list[str] | None = None) -> int:
    """Run a command; bad input and failing notebooks end with one line on standard error and exit status 1."""
    parser = argparse.ArgumentParser(prog="forget_mi", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    run = commands.add_parser("run", help="run the five notebooks on a profile")
    run.add_argument("profile", help="a name in params/, or a path to a YAML file")
    run.add_argument("--data", type=Path, help="the data folder (cohort.root)")
    run.add_argument("--run-dir", help="the run folder (default runs/<profile>)")
    covid = commands.add_parser("covid-results", help="run the covid profile and rebuild the README's table from it")
    covid.add_argument("--data", type=Path, required=True, help="the folder with metadata.csv and images/")
    run.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="override a parameter")
    commands.add_parser("notebooks", help="rebuild the committed notebooks' outputs")
    commands.add_parser("reference", help="rebuild tests/reference, which the tests compare printed results with")
    commands.add_parser("results", help="rebuild figures/results.csv and the figures made from it")
    options = parser.parse_args(arguments)
    try:
        return COMMANDS[options.command](options)
    except InputError as error:
        print(f"forget_mi: {error}", file=sys.stderr)
    except RuntimeError as error:
        print(f"forget_mi: {error}", file=sys.stderr)
    return 1


def _run(options: argparse.Namespace) -> int:
    from forget_mi.pipeline import run_chain
    from forget_mi.plots import print_comparison
    from forget_mi.runs import shown

    overrides = {}
    for item in options.set:
        name, separator, value = item.partition("=")
        if not separator:
            raise InputError(f"--set {item!r}: write NAME=VALUE, as in unlearning.epochs=4")
        overrides[name] = yaml.safe_load(value)
        if name in ("cohort.root", "request.csv") and overrides[name]:
            overrides[name] = str(Path(value).resolve())  # relative to where the command was typed
        if name in ("request.csv", "request.patients"):
            overrides.setdefault("request.fraction", None)  # instead of the profile's draw
    if options.data is not None:
        overrides["cohort.root"] = str(options.data.resolve())
    run = run_chain(options.profile, options.run_dir, overrides)
    print_comparison(run.folder / "comparison.csv")
    print(f"\nThe executed notebooks, models and tables lie in {shown(run.folder)}.")
    return 0


def _notebooks(_: argparse.Namespace) -> int:
    from forget_mi.pipeline import rebuild_notebooks

    rebuild_notebooks()
    return 0


def _results(_: argparse.Namespace) -> int:
    from forget_mi.results import rebuild_results

    rebuild_results()
    return 0


def _reference(_: argparse.Namespace) -> int:
    from forget_mi.pipeline import rebuild_notebooks
    from forget_mi.profiles import ROOT

    rebuild_notebooks(ROOT / "tests" / "reference", {"profile": "tiny", "run_dir": "runs/reference"})
    return 0


def _covid_results(options: argparse.Namespace) -> int:
    from forget_mi.results import rebuild_covid_results

    rebuild_covid_results(options.data.resolve())
    return 0


COMMANDS = {
    "run": _run,
    "covid-results": _covid_results,
    "notebooks": _notebooks,
    "reference": _reference,
    "results": _results,
}


if __name__ == "__main__":
    sys.exit(main())
