"""The grid, and the workflow that runs it."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest

from forget_mi.errors import InputError
from forget_mi.runs.params import tuned_settings
from forget_mi.runs.project import ROOT
from forget_mi.source_code import LIBRARY, sources_of
from forget_mi.studies.sweep import open_sweep
from forget_mi.studies.workflow import run_sweep
from forget_mi.unlearning import approaches, parse_approach

SMALL = {"sweep": {"approaches": ["forget_mi-equal", "neg_grad"], "fractions": [0.1], "seeds": [0]}}
NO_SHADOWS = {"shadows.count": 0}
NOT_TIMES = ["seconds", "share_of_retraining", "share_of_references"]


def test_every_setting_of_every_method_is_an_approach():
    assert {"scrub-last", "scrub-rewind", "ssd", "retrain"} < set(approaches())
    assert sum(name.startswith("forget_mi-") for name in approaches()) == 6
    assert parse_approach("forget_mi-no_noise") == ("forget_mi", "no_noise")
    assert parse_approach("salun") == ("salun", None)


@pytest.mark.parametrize(
    ("sweep", "message"),
    [
        ({"approaches": ["magic"]}, "unlearning approach 'magic': allowed are forget_mi-equal"),
        ({"approaches": ["forget_mi-loud"]}, "unlearning approach 'forget_mi-loud'"),
        ({"approaches": ["scrub"]}, "unlearning approach 'scrub'"),
        ({"fractions": [0.1, 1.5]}, r"parameter sweep\.fractions\.1 = 1\.5"),
        ({"fractions": []}, r"parameter sweep\.fractions = \[\]: needs at least one"),
        ({"seeds": [1, 1]}, r"parameter sweep\.seeds = \[1, 1\].*each once"),
        ({"seeds": [-1]}, r"parameter sweep\.seeds\.0 = -1"),
        ({"methods": []}, r"unknown parameter sweep\.methods"),
    ],
)
def test_an_impossible_grid_stops_before_anything_runs(sweep, message, tmp_path):
    with pytest.raises(InputError, match=message):
        run_sweep("tiny", tmp_path / "sweep", {"sweep": sweep})
    assert not (tmp_path / "sweep").exists()


def test_each_cell_has_its_own_settings_and_the_default_the_profiles():
    sweep = open_sweep("demo")
    assert len(sweep.names()) == len(sweep.grid.seeds) * len(sweep.grid.fractions)
    name = next(iter(sweep.names()))
    own = sweep.run(name, sweep.own).params
    assert own.unlearning == sweep.run(name).params.unlearning
    scrub = sweep.run(name, "scrub-rewind").params
    assert (scrub.method, scrub.unlearning.setting) == ("scrub", "rewind")
    other = sweep.run(name, "forget_mi-multimodal").params.unlearning
    assert other.learning_rate == tuned_settings("demo")["forget_mi-multimodal"]["learning_rate"]
    assert other.learning_rate != type(other)().learning_rate


def test_seeds_that_were_tuned_on_are_not_reported():
    params = open_sweep("demo").params
    assert not set(params.tuning.seeds) & set(params.sweep.seeds)


def test_the_first_run_of_a_seed_trains_the_original():
    sweep = open_sweep("tiny")
    assert [sweep.trains_first(name) for name in sweep.names()] == [
        None,
        "seed0-10pct",
        None,
        "seed1-10pct",
    ]


def test_the_default_grid_leaves_out_only_retraining():
    assert set(approaches()) - set(
        open_sweep("tiny", None, {"sweep.approaches": []}).approaches
    ) == {"retrain"}


def test_a_module_depends_on_what_it_imports_and_on_nothing_else():
    def names(*modules):
        return {str(path.relative_to(LIBRARY)) for path in sources_of(*modules)}

    training = names("training.loop")
    assert {"training/loop.py", "losses.py", "models/image_text.py", "metrics.py"} <= training
    assert not {name for name in training if name.startswith(("unlearning", "attacks", "evalua"))}
    assert "unlearning/ssd.py" not in names("unlearning.scrub")
    assert {"unlearning/loop.py", "unlearning/fine_tune.py", "unlearning/cf_k.py"} <= names(
        "unlearning.eu_k"
    )
    assert "attacks/svc.py" in names("evaluation.audit")
    with pytest.raises(ValueError, match=r"no module forget_mi\.nothing"):
        sources_of("nothing")


def table(folder):
    return pd.read_csv(folder / "comparison.csv").drop(columns=NOT_TIMES)


class Project:
    """A copy of the project, so that a test can edit its sources."""

    def __init__(self, root: Path):
        self.root = root
        for name in ("lib", "notebooks", "params", "workflow"):
            shutil.copytree(
                ROOT / name, root / name, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info")
            )
        self.sweep = root / "runs" / "sweep" / "tiny"

    def command(self, *more: str, folder: Path | None = None) -> dict:
        words = [
            sys.executable,
            "-m",
            "forget_mi",
            "sweep",
            "tiny",
            "--set",
            "sweep=" + json.dumps(SMALL["sweep"]),
        ]
        words += ["--set", "shadows.count=0"]
        words += ["--folder", str(folder)] if folder else []
        environment = {**os.environ, "PYTHONPATH": str(self.root / "lib")}
        return {"args": [*words, *more], "cwd": self.root, "env": environment}

    def run(self, *more: str, folder: Path | None = None) -> subprocess.CompletedProcess:
        return subprocess.run(
            **self.command(*more, folder=folder), capture_output=True, text=True, check=False
        )

    def would_run(self, *settings: str) -> dict[str, int]:
        """Rules that a dry run would execute, and how often."""
        done = self.run(*settings, "--", "--dry-run")
        assert done.returncode == 0, done.stderr
        lines = (done.stdout + done.stderr).splitlines()
        rules = [
            line.split()[2]
            for line in lines
            if line.startswith("Job ") and not line.startswith("Job stats")
        ]
        return {rule: rules.count(rule) for rule in rules}


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    project = Project(tmp_path_factory.mktemp("project"))
    done = project.run()
    assert done.returncode == 0, done.stderr
    return project


def test_a_sweep_leaves_one_table_and_then_nothing_to_do(project):
    models = ["original", "forget_mi-equal", "neg_grad", "retrained-1", "retrained-2"]
    assert table(project.sweep).model.tolist() == models
    assert project.would_run() == {}


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("notebooks/05_compare.ipynb", {"compare": 1}),
        ("lib/forget_mi/unlearning/neg_grad.py", {"unlearn": 1, "audit": 1, "compare": 1}),
        ("lib/forget_mi/unlearning/ssd.py", {}),
        ("lib/forget_mi/losses.py", {"train": 1, "unlearn": 2, "audit": 1, "compare": 1}),
    ],
)
def test_an_edit_runs_again_what_depends_on_it_and_no_more(project, path, expected):
    file = project.root / path
    before = file.read_text()
    file.write_text(before + "\n")
    try:
        assert project.would_run() == expected
    finally:
        file.write_text(before)


def test_the_same_content_whenever_it_was_written_starts_nothing(project):
    file = project.root / "lib" / "forget_mi" / "losses.py"
    file.write_text(file.read_text())
    assert project.would_run() == {}


def test_a_changed_parameter_runs_again_what_depends_on_it(project):
    changed = project.would_run("--set", "audit.draws=60")
    assert changed == {"audit": 1, "compare": 1}
    assert project.would_run("--set", "unlearning.sigma=0.4") == {
        "unlearn": 1,
        "audit": 1,
        "compare": 1,
    }


def test_audits_wait_for_the_shadow_models_which_are_trained_once(project):
    assert project.would_run("--set", "shadows.count=4") == {"shadow": 4, "audit": 1, "compare": 1}


def test_the_attack_that_unlearns_shadow_models_is_run_on_the_largest_request():
    sweep = open_sweep("tiny", None, {"sweep.u_lira": 3})
    found = {name: sweep.run(name).params.audit.u_lira for name in sweep.names()}
    assert found == {"seed0-10pct": 0, "seed0-20pct": 3, "seed1-10pct": 0, "seed1-20pct": 3}


def test_killed_three_times_and_a_model_damaged_it_ends_with_the_same_table(project, tmp_path):
    """Killed as soon as each of three files is there: the stage after it has begun, and its own
    outcome is missing."""
    folder = tmp_path / "tiny"
    run = folder / "seed0-10pct"
    weights = run / "02_train" / "retrained-1" / "model.safetensors"
    for file in (
        run / "01_cohort" / "outcome.json",
        weights,
        run / "03_unlearn" / "neg_grad" / "model" / "model.safetensors",
    ):
        process = subprocess.Popen(
            **project.command(folder=folder),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        while not file.exists() and process.poll() is None:
            time.sleep(0.1)
        assert process.poll() is None
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        if file == weights:
            assert not (run / "02_train" / "outcome.json").exists()
            weights.write_bytes(weights.read_bytes()[:-100])
    done = project.run(folder=folder)
    assert done.returncode == 0, done.stderr
    pd.testing.assert_frame_equal(table(folder), table(project.sweep))


def test_a_cell_that_fails_is_named_and_the_rest_completes(tmp_path, capfd):
    folder = tmp_path / "tiny"
    # A learning rate at which the loss is not finite.
    broken = {
        "sweep": SMALL["sweep"],
        "unlearning": {
            "method": "forget_mi",
            "setting": "equal",
            "learning_rate": 1.0,
            "clip": 1e30,
            "epochs": 50,
            "stop": "never",
            "weight_decay": 10.0,
        },
    }
    code = run_sweep("tiny", folder, {**broken, **NO_SHADOWS})
    printed = "".join(capfd.readouterr())
    assert code == 1
    assert "failed: seed0-10pct/forget_mi-equal: 03_unlearn stopped in cell" in printed
    assert table(folder).model.tolist() == ["original", "neg_grad", "retrained-1", "retrained-2"]
    outcome = folder / "seed0-10pct" / "03_unlearn" / "forget_mi-equal" / "outcome.json"
    assert json.loads(outcome.read_text())["ok"] is False
