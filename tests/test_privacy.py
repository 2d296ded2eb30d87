"""Ids of real people are hashed as they come in, and no committed notebook shows a real cohort."""

import json
import re
import subprocess
from dataclasses import replace

import pytest
from conftest import make_cohort

from forget_mi.data.cohorts import SOURCES, load_cohort
from forget_mi.data.export import LABELS, export_cohort
from forget_mi.data.pseudonyms import pseudonymize
from forget_mi.data.requests import RequestConfig, draw_request, make_request
from forget_mi.data.splits import SplitConfig, split_by_patient
from forget_mi.errors import InputError
from forget_mi.models.config import ModelConfig
from forget_mi.runs.chain import run_chain
from forget_mi.runs.profiles import read_yaml
from forget_mi.runs.project import ROOT
from forget_mi.runs.salt import draw_salt, run_salt
from forget_mi.training.config import DeviceConfig, ShadowConfig, TrainingConfig
from forget_mi.training.shadows import open_shadow_set

PATIENTS = [f"patient{n % 8}" for n in range(24)]
LABELS_OF = [n % 2 for n in range(24)]


@pytest.fixture
def people():
    return replace(make_cohort(PATIENTS, LABELS_OF), synthetic=False)


def test_hashed_ids_tell_who_belongs_together_and_nothing_else(people):
    one, other = pseudonymize(people, "salt"), pseudonymize(people, "another")
    assert one.table.groupby("patient_id").size().tolist() == [3] * 8
    assert one.table.patient_id.tolist() == pseudonymize(people, "salt").table.patient_id.tolist()
    assert not set(one.table.patient_id) & (set(other.table.patient_id) | set(PATIENTS))
    assert [one.report_of(row) for row in range(24)] == [people.report_of(row) for row in range(24)]


def test_what_was_trained_on_people_is_found_whatever_the_salt(people, tmp_path):
    """Shadow and reference models go by the content: one set serves every run of a cohort."""
    cohorts = [people, *(pseudonymize(people, salt) for salt in ("salt", "another"))]
    assert len({cohort.fingerprint for cohort in cohorts}) == 1
    folders = {
        open_shadow_set(
            tmp_path, each, ModelConfig(), TrainingConfig(), ShadowConfig(count=4), DeviceConfig()
        ).folder
        for each in cohorts
    }
    assert len(folders) == 1
    written = (*folders,)[0].joinpath("shadows.json").read_text()
    assert not re.search(r"patient\d|p-[0-9a-f]{16}", written)
    # Who is whose counts: two patients more or fewer are another cohort.
    table = people.table.assign(patient_id=people.table.patient_id.replace("patient1", "patient0"))
    assert replace(people, table=table).fingerprint != people.fingerprint


def test_splits_and_requests_do_not_depend_on_the_salt(people):
    settings = SplitConfig(test=0.25, validation=0.25, seed=3)
    plain = split_by_patient(people, settings)
    for salt in ("salt", "another"):
        split = split_by_patient(pseudonymize(people, salt), settings)
        assert split.table.split.tolist() == plain.table.split.tolist()
        rows = draw_request(split, 0.3, seed=1).forget_rows(split)
        assert rows.tolist() == draw_request(plain, 0.3, seed=1).forget_rows(plain).tolist()


def test_a_request_names_patients_as_the_collection_does(people, tmp_path):
    plain = split_by_patient(people, SplitConfig(test=0.25, validation=0.25))
    split = split_by_patient(pseudonymize(people, "salt"), SplitConfig(test=0.25, validation=0.25))
    staying = plain.table.patient_id[plain.table.split == "train"].iloc[0]
    (tmp_path / "forget.csv").write_text(f"subject_id\n{staying}\n")
    for settings in (
        RequestConfig(patients=(staying,)),
        RequestConfig(csv=tmp_path / "forget.csv"),
    ):
        request = make_request(split, settings)
        assert (
            request.forget_rows(split).tolist()
            == plain.table.index[plain.table.patient_id == staying].tolist()
        )
        assert staying not in str(request)
    tested = plain.table.patient_id[plain.table.split == "test"].iloc[0]
    with pytest.raises(
        InputError, match=r"patient 'p-[0-9a-f]{16}' \(2 of 2 named\) is in test"
    ) as error:
        make_request(split, RequestConfig(patients=(staying, tested)))
    assert tested not in str(error.value)


def test_a_run_keeps_its_salt_and_a_sweep_shares_one(tmp_path):
    assert run_salt(tmp_path / "a") == run_salt(tmp_path / "a") != run_salt(tmp_path / "b")
    shared = draw_salt(tmp_path / "sweep")
    assert run_salt(tmp_path / "sweep" / "a") == run_salt(tmp_path / "sweep" / "b") == shared


@pytest.fixture(scope="module")
def real_run(cohort, tmp_path_factory):
    """A run of notebook 01 on an exported cohort, read as if it were MIMIC-CXR, with one bad image
    in it."""
    root = tmp_path_factory.mktemp("mimic")
    labels = export_cohort(cohort, root, "jpg").astype(str)
    first = labels.iloc[0]
    folder = (
        root / "files" / f"p{first.subject_id[:2]}" / f"p{first.subject_id}" / f"s{first.study_id}"
    )
    (folder / f"{first.dicom_id}.jpg").write_bytes(b"")
    overrides = {
        "cohort": {
            "source": "mimic_cxr",
            "root": str(root),
            "image_size": 32,
            "max_unreadable": 0.1,
            "workers": 1,
        }
        | {"store": str(root / "store"), "labels": LABELS}
    }
    run = run_chain("tiny", root / "run", overrides, ["01_cohort"], progress=False)
    return run, labels


def test_nothing_that_a_run_leaves_names_a_patient(real_run):
    run, labels = real_run
    written = [path for path in run.folder.rglob("*") if path.is_file()]
    assert {"01_cohort.ipynb", "manifest.json", "skipped.csv", "cohort.csv"} <= {
        path.name for path in written
    }
    for path in written:
        content = path.read_bytes().decode(errors="replace")
        for name in (*labels.subject_id.unique(), *labels.study_id.unique(), *labels.dicom_id):
            assert name not in content, (path, name)


def test_plain_ids_are_there_for_the_asking(real_run):
    run, labels = real_run
    cohort = load_cohort({**run.params.cohort, "ids": "plain"}, salt="salt")
    assert set(cohort.table.patient_id) <= set(labels.subject_id)
    assert cohort.skipped.item.tolist() == [labels.dicom_id[0]]


# ---- what is committed ---------------------------------------------------------------------------

COMMITTED = sorted(
    [*(ROOT / "notebooks").glob("*.ipynb"), *(ROOT / "tests" / "reference").glob("*.ipynb")]
)


def shows_a_real_cohort(notebook: dict) -> bool:
    """Whether a notebook was run on a profile with real people, or prints hashed ids or a real
    source's name."""
    parameters: dict = {}
    for cell in notebook["cells"]:
        if {"parameters", "injected-parameters"} & set(cell["metadata"].get("tags", [])):
            exec("".join(cell["source"]), parameters)
    # A notebook without a profile makes its own cohort: then no other source may be imported in it.
    own = {"cohort": {"source": "synthetic"}}
    values = read_yaml(parameters["profile"]) if "profile" in parameters else own
    code = "".join(
        "".join(cell["source"]) for cell in notebook["cells"] if cell["cell_type"] == "code"
    )
    if "profile" not in parameters and re.search(
        r"cohorts import (?!synthetic\b)|load_cohort", code
    ):
        return True
    source = (parameters.get("overrides") or {}).get("cohort", values["cohort"])["source"]
    printed = json.dumps([cell.get("outputs", []) for cell in notebook["cells"]])
    real = [name for name in SOURCES if name != "synthetic"]
    return source != "synthetic" or any(
        re.search(rf"\b{name}\b", printed) for name in [*real, r"p-[0-9a-f]{16}"]
    )


@pytest.mark.parametrize("path", COMMITTED, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_no_committed_notebook_shows_a_real_cohort(path):
    assert not shows_a_real_cohort(json.loads(path.read_text()))


def test_no_file_of_the_project_names_a_case_of_medpix():
    """Ids of its cases and pictures are the letters MPX or synpic, and digits."""
    found = subprocess.run(
        ["git", "grep", "--cached", "-lE", "MPX[0-9]{3}|synpic[0-9]{3}"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert found.returncode == 1, found.stdout + found.stderr  # 1: none


def test_one_that_does_is_told(real_run):
    run, _ = real_run
    notebook = json.loads((run.folder / "01_cohort" / "01_cohort.ipynb").read_text())
    assert shows_a_real_cohort(notebook)
    for cell in notebook["cells"]:
        cell["metadata"]["tags"] = []  # the outputs alone give it away too
    assert shows_a_real_cohort(notebook)
