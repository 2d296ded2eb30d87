"""The notebooks end to end on the tiny profile, and regression of what they print."""

import json
import multiprocessing
import os
import shutil
import subprocess
import sys
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import pandas as pd
import pytest
from conftest import small_notebook

from forget_mi.cli import main
from forget_mi.data.requests import make_request
from forget_mi.errors import InputError
from forget_mi.runs.chain import NOTEBOOKS, SIDE_NOTEBOOKS, NotebookError, execute, run_chain
from forget_mi.runs.models import load_model, train_models
from forget_mi.runs.notebooks import clean_notebook, with_parameters
from forget_mi.runs.profiles import load_profile
from forget_mi.runs.project import ROOT
from forget_mi.runs.references import load_references
from forget_mi.runs.run import open_run

REFERENCE = ROOT / "tests" / "reference"
COLUMNS = [
    "model",
    "method",
    "setting",
    "forget_fraction",
    "seed",
    "mia_svc_image",
    "mia_svc_fused",
    "attack_auc",
    "forget_auc",
    "forget_f1",
    "test_auc",
    "test_f1",
    "retain_auc",
    "seconds",
    "share_of_retraining",
]


def code_cells(notebook: dict) -> list[dict]:
    return [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]


def is_parameters(cell: dict) -> bool:
    return "parameters" in cell["metadata"].get("tags", [])


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return run_chain("tiny", tmp_path_factory.mktemp("runs") / "tiny", progress=False)


def test_the_chain_leaves_a_whole_run(run):
    comparison = pd.read_csv(run.folder / "comparison.csv")
    assert set(COLUMNS) <= set(comparison.columns)
    assert comparison.model.tolist() == [
        "original",
        "forget_mi-equal",
        "retrained-1",
        "retrained-2",
    ]
    assert (
        comparison[[c for c in COLUMNS if c not in ("model", "method", "setting")]]
        .notna()
        .all()
        .all()
    )
    for stage in ("01_cohort", "02_train", "03_unlearn/forget_mi-equal", "04_audit"):
        assert (run.stage(stage) / "manifest.json").is_file()
        assert (run.stage(stage) / f"{stage.split('/')[0]}.ipynb").is_file()
    assert (run.stage("05_compare") / "05_compare.ipynb").is_file()
    audit = pd.read_csv(run.stage("04_audit") / "audit.csv")
    assert ((audit.low <= audit.value + 1e-9) | audit.low.isna()).mean() > 0.9
    assert set(audit.tower) == {"fused", "image", "text"}
    losses = pd.read_csv(run.stage("04_audit") / "losses.csv")
    assert set(losses.columns) == {"model", "set", "fused", "image", "text"}  # no ids


def test_the_same_params_give_the_same_numbers(run, tmp_path):
    again = run_chain("tiny", tmp_path / "again", progress=False)
    first, second = (pd.read_csv(r.folder / "comparison.csv") for r in (run, again))
    timed = ["seconds", "share_of_retraining", "share_of_references"]
    pd.testing.assert_frame_equal(first.drop(columns=timed), second.drop(columns=timed))


def test_a_finished_training_is_reused_and_other_params_are_not_read(run, tmp_path):
    copy = shutil.copytree(run.folder, tmp_path / "copy")
    before = (copy / "02_train" / "original" / "manifest.json").read_text()
    run_chain("tiny", copy, notebooks=["02_train"], progress=False)
    assert (copy / "02_train" / "original" / "manifest.json").read_text() == before
    with pytest.raises(
        NotebookError,
        match=r"03_unlearn stopped in cell .*training\.epochs = 3, the params here say 2",
    ):
        run_chain("tiny", copy, {"training.epochs": 2}, notebooks=["03_unlearn"], progress=False)


def test_a_run_folder_of_another_cohort_is_refused(run, tmp_path):
    copy = shutil.copytree(run.folder, tmp_path / "copy")
    run_chain("tiny", copy, {"cohort.seed": 1}, notebooks=["01_cohort"], progress=False)
    with pytest.raises(
        NotebookError, match=r"02_train: was made with cohort\.seed = 0, the params here say 1"
    ):
        run_chain("tiny", copy, {"cohort.seed": 1}, notebooks=["03_unlearn"], progress=False)


def test_a_truncated_checkpoint_stops_the_chain_and_names_the_cell(run, tmp_path):
    copy = shutil.copytree(run.folder, tmp_path / "copy")
    weights = copy / "02_train" / "original" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:100])
    (copy / "03_unlearn" / "forget_mi-equal" / "03_unlearn.ipynb").unlink()
    with pytest.raises(
        NotebookError, match=r"03_unlearn stopped in cell \d+: InputError: .*is truncated"
    ):
        run_chain("tiny", copy, notebooks=["03_unlearn", "04_audit"], progress=False)
    partly = json.loads((copy / "03_unlearn" / "forget_mi-equal" / "03_unlearn.ipynb").read_text())
    done = [cell["execution_count"] for cell in code_cells(partly)]
    assert any(done)
    assert not all(done)
    assert any(
        output["output_type"] == "error"
        for cell in code_cells(partly)
        for output in cell["outputs"]
    )


def test_a_second_method_is_audited_beside_the_first(run, tmp_path):
    copy = shutil.copytree(run.folder, tmp_path / "copy")
    other = {"unlearning.setting": "retention"}
    run_chain(
        "tiny", copy, other, notebooks=["03_unlearn", "04_audit", "05_compare"], progress=False
    )
    comparison = pd.read_csv(copy / "comparison.csv")
    assert comparison.model.tolist() == [
        "original", "forget_mi-equal", "forget_mi-retention", "retrained-1", "retrained-2",
    ]  # fmt: skip
    assert comparison.setting.tolist()[1:3] == ["equal", "retention"]


def test_references_taken_over_from_a_run_with_another_salt_serve_this_one(run):
    """As with `run demo --run-dir runs/mine`: the same models, and patients by this run's
    hashes."""
    folder = run.folder.parent / "mine"
    shutil.copytree(run.stage("01_cohort"), folder / "01_cohort")
    mine = open_run("tiny", folder)
    cohort, request = mine.cohort(), mine.request()
    trained = train_models(mine, ["original", *mine.reference_seeds()], cohort, request)
    for name in mine.reference_seeds():
        theirs = load_model(run, name, cohort).manifest
        assert trained[name]["weights_sha256"] == theirs["weights_sha256"]
        assert not set(trained[name]["patients"]) & set(theirs["patients"])
    mine.start("02_train")
    mine.finish("02_train", cohort_fingerprint=cohort.fingerprint, models={})
    references = load_references(mine, cohort)
    everyone = set().union(*references.saw.values())
    trained_on = cohort.table.patient_id[cohort.table.split == "train"].unique()
    assert everyone == {mine.hashed(patient) for patient in trained_on}


def test_a_run_folder_of_an_earlier_version_is_read(run, tmp_path):
    """Its manifests hold parameters that are gone, at the values that are now all there is."""
    copy = shutil.copytree(run.folder, tmp_path / "copy")
    for path in copy.glob("02_train/**/manifest.json"):
        manifest = json.loads(path.read_text())
        params = manifest.get("params", manifest.get("identity"))
        params["training"]["keep"] = "last"
        path.write_text(json.dumps(manifest | {"keep_outputs": False}))
    old = open_run("tiny", copy)
    assert old.require("02_train") == copy / "02_train"
    assert list(load_references(old, old.cohort()).checkpoints) == list(old.reference_seeds())
    path = copy / "02_train" / "manifest.json"
    path.write_text(path.read_text().replace('"keep": "last"', '"keep": "best"'))
    with pytest.raises(InputError, match=r"training\.keep = 'best' .*was removed"):
        old.require("02_train")


def test_a_model_unlearned_from_another_original_is_refused(run, tmp_path):
    copy = shutil.copytree(run.folder, tmp_path / "copy")
    manifest = copy / "02_train" / "original" / "manifest.json"
    again = open_run("tiny", copy)
    cohort = again.cohort()
    assert load_model(again, "forget_mi-equal", cohort).manifest["method"] == "forget_mi"
    text = json.loads(manifest.read_text())
    manifest.write_text(json.dumps({**text, "weights_sha256": "0" * 64}))
    with pytest.raises(InputError, match="was unlearned from another original"):
        load_model(again, "forget_mi-equal", cohort)


def test_a_request_can_be_given_as_a_file_or_a_list(run, tmp_path, monkeypatch, capsys):
    wanted = run.request().patients[:2]
    (tmp_path / "forget.csv").write_text("subject_id\n" + "\n".join(wanted) + "\n")
    monkeypatch.chdir(tmp_path)
    seen = {}

    def remember(profile, run_dir, overrides):
        seen.update(overrides)
        raise InputError("enough")

    monkeypatch.setattr("forget_mi.runs.chain.run_chain", remember)
    assert main(["run", "tiny", "--set", "request.csv=forget.csv"]) == 1
    assert capsys.readouterr().err == "forget_mi: enough\n"
    params = load_profile("tiny", seen)
    assert make_request(run.cohort(), params.request).patients == wanted
    assert main(["run", "tiny", "--set", f"request.patients=[{', '.join(wanted)}]"]) == 1
    assert (
        load_profile("tiny", {k: v for k, v in seen.items() if k != "request.csv"}).request.patients
        == wanted
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", "nowhere"], "profile 'nowhere'"),
        (["run", "tiny", "--set", "training.epochs=0"], "parameter training.epochs = 0"),
        (["run", "tiny", "--set", "training.epochs"], "write NAME=VALUE"),
        (
            ["run", "covid"],
            "parameter cohort.root: profile covid needs the folder with its data: DATA=",
        ),
        (
            ["run", "covid", "--data", "/nowhere", "--run-dir", "{tmp}"],
            "metadata.csv: can't be read",
        ),
    ],
)
def test_bad_input_is_one_line_and_exit_status_1(arguments, message, tmp_path):
    arguments = [argument.format(tmp=tmp_path / "r") for argument in arguments]
    done = subprocess.run(
        [sys.executable, "-m", "forget_mi", *arguments], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("forget_mi: ")
    assert message in last
    assert "Traceback" not in done.stderr.replace(last, "").split("Executing")[0]


# ---- the committed notebooks ---------------------------------------------------------------------


@pytest.mark.parametrize("name", [*NOTEBOOKS, *SIDE_NOTEBOOKS])
def test_committed_notebooks_are_clean(name):
    text = (ROOT / "notebooks" / f"{name}.ipynb").read_text()
    notebook = json.loads(text)
    assert clean_notebook(text) == text, "make notebooks writes them clean"
    assert sum(is_parameters(cell) for cell in notebook["cells"]) == 1
    assert all(cell["execution_count"] for cell in code_cells(notebook))
    assert not any(
        o["output_type"] == "error" for cell in code_cells(notebook) for o in cell["outputs"]
    )
    assert str(ROOT) not in text
    assert max(len(cell["source"]) for cell in code_cells(notebook)) <= 20
    # Only the built-in cohort's patients are in them.
    parameters = next(cell for cell in notebook["cells"] if is_parameters(cell))
    source = "".join(parameters["source"])
    if "profile" in source:
        assert 'profile = "demo"' in source
    else:  # it makes its own
        assert any("synthetic.load(" in "".join(cell["source"]) for cell in code_cells(notebook))


@pytest.mark.parametrize("name", [*NOTEBOOKS, *SIDE_NOTEBOOKS])
def test_the_reference_is_of_the_present_notebook(name):
    """Source by source, but for the parameters: otherwise `make reference` has to be run, and its
    diff to be read."""
    present, reference = (json.loads((folder / f"{name}.ipynb").read_text())["cells"] for folder in
                          (ROOT / "notebooks", REFERENCE))  # fmt: skip
    assert [c["source"] for c in present if not is_parameters(c)] == [
        c["source"] for c in reference if not is_parameters(c)
    ]


def test_printed_results_are_as_in_the_reference():
    """nbval runs the notebooks on the tiny profile and compares what every cell prints, to two
    decimals."""
    for old in ("reference", "tuning/tiny"):
        shutil.rmtree(ROOT / "runs" / old, ignore_errors=True)
    command = [
        sys.executable,
        "-m",
        "pytest",
        "--nbval",
        "--nbval-current-env",
        "--nbval-sanitize-with",
        str(REFERENCE / "sanitize.cfg"),
        "-p",
        "no:cacheprovider",
        "-o",
        "addopts=",
        str(REFERENCE),
    ]
    environment = {**os.environ, "FORGET_MI_PROGRESS": "0"}
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, env=environment, cwd=REFERENCE
    )
    assert done.returncode == 0, done.stdout[-6000:]
    assert " passed" in done.stdout


# ---- papermill -----------------------------------------------------------------------------------


def test_cleaning_drops_what_changes_from_run_to_run(tmp_path):
    source = tmp_path / "n.ipynb"
    source.write_text(
        small_notebook("x = 1", "import sys; print(x); print('bar', file=sys.stderr)", "print(2)")
    )
    for i in range(2):
        execute(source, tmp_path / f"{i}.ipynb", {}, progress=False)
    first, second = (clean_notebook((tmp_path / f"{i}.ipynb").read_text()) for i in range(2))
    assert first == second
    assert "bar" not in json.dumps([c["outputs"] for c in json.loads(first)["cells"]])
    assert "papermill" not in first


def test_notebooks_that_run_at_the_same_time_do_not_mix(tmp_path):
    source = tmp_path / "n.ipynb"
    source.write_text(
        small_notebook("x = 0", "import time; time.sleep(1); print('number', x)", tag="parameters")
    )
    with ProcessPoolExecutor(3, mp_context=multiprocessing.get_context("spawn")) as pool:
        jobs = [
            pool.submit(execute, source, tmp_path / f"{i}.ipynb", {"x": i}, False) for i in range(3)
        ]
        for job in jobs:
            job.result()
    for i in range(3):
        assert f"number {i}" in (tmp_path / f"{i}.ipynb").read_text()


def test_a_cohort_of_reports_alone_runs_through(tmp_path, cohort):
    reports = tmp_path / "reports"
    reports.mkdir()
    for number, row in enumerate(cohort.table.drop_duplicates("study_id").itertuples(), start=1):
        term = "normal" if row.label == 0 else "Pulmonary Edema"
        text = f'<AbstractText Label="FINDINGS">{cohort.reports[row.study_id]}</AbstractText>'
        (reports / f"{number}.xml").write_text(
            "<eCitation><uId "
            f'id="CXR{number}"/>{text}<MeSH><major>{term}</major></MeSH></eCitation>'
        )
    overrides = {"cohort": {"source": "openi", "reports": str(reports)}, "model.towers": "text"}
    run = run_chain("tiny", tmp_path / "run", overrides, progress=False)
    comparison = pd.read_csv(run.folder / "comparison.csv")
    assert comparison.mia_svc_image.isna().all()
    assert comparison[["mia_svc_fused", "forget_auc", "test_auc", "mean_gap"]].notna().all().all()
    assert set(pd.read_csv(run.stage("04_audit") / "audit.csv").tower) == {"fused", "text"}


def test_parameters_are_put_in_their_cell():
    changed = with_parameters(
        small_notebook('profile = "demo"\nrun_dir = None', tag="parameters"), {"profile": "tiny"}
    )
    assert "".join(json.loads(changed)["cells"][0]["source"]) == 'profile = "tiny"\nrun_dir = None'


def test_lint_covers_code_and_notebooks():
    for command in (["check"], ["format", "--check"]):
        done = subprocess.run(
            [Path(sys.executable).with_name("ruff"), *command, "."],
            cwd=ROOT,
            capture_output=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout
