"""Deletion requests to a stored model: what is served, refused, kept, and shown."""

import base64
import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from PIL import Image
from traces import leaks, traces_of

from forget_mi.cli import main
from forget_mi.data import Request, rows_of
from forget_mi.errors import InputError
from forget_mi.evaluation import COULD_NOT, FOUND, NOT_TOLD, PUSHED
from forget_mi.evaluation.wear import SIGNS
from forget_mi.models.checkpoints import load_checkpoint, read_manifest
from forget_mi.requests import serving, wear
from forget_mi.requests.erasure import JOURNAL, OUTPUTS, delete_records
from forget_mi.requests.ledger import ledger_problems
from forget_mi.requests.served_model import ServedModel
from forget_mi.requests.serving import retrain, serve, serve_together
from forget_mi.requests.wear import wear_of
from forget_mi.runs import Run
from forget_mi.runs.chain import NotebookError, run_chain
from forget_mi.runs.policies import Alarm
from forget_mi.runs.project import ROOT


def forget_csv(path, patients):
    pd.DataFrame({"subject_id": patients}).to_csv(path, index=False)
    return path


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A trained run, and then two requests to it: of nine patients, and of a single one."""
    folder = tmp_path_factory.mktemp("served") / "tiny"
    run_chain("tiny", folder, notebooks=["01_cohort", "02_train"], progress=False)
    training = trained_patients(folder)
    for number, patients in enumerate((training[:9], training[9:10]), start=1):
        serve(folder, forget_csv(folder / f"{number}.csv", patients), progress=False)
    return folder


def trained_patients(folder):
    cohort = ServedModel(folder).cohort()
    return cohort.table.patient_id[cohort.table.split == "train"].unique()


def test_each_request_starts_from_the_model_that_the_one_before_left(model):
    first, second = ServedModel(model).ledger
    original = read_manifest(model / "02_train" / "original")["weights_sha256"]
    assert (
        first["original_sha256"]
        == original
        != first["unlearned_sha256"]
        == second["original_sha256"]
    )
    assert ServedModel(model).checkpoint() == model / second["checkpoint"]
    assert (
        read_manifest(ServedModel(model).checkpoint())["weights_sha256"]
        == second["unlearned_sha256"]
    )


def test_served_patients_are_in_no_later_training(model):
    served = ServedModel(model)
    gone = {patient for entry in served.ledger for patient in entry["patients"]}
    table = served.cohort().table
    hashed = table.patient_id.map(served.hashed)
    assert (table.split[hashed.isin(gone)] == "forgotten").all()
    assert (table.split == "forgotten").sum() == sum(entry["images"] for entry in served.ledger)
    second = pd.read_csv(model / "requests" / "002" / "01_cohort" / "cohort" / "cohort.csv")
    assert (second.split == "forgotten").sum() == served.ledger[0]["images"]


def test_earlier_patients_are_audited_again(model):
    assert not (model / "requests" / "001" / "04_audit" / "earlier.csv").exists()
    again = pd.read_csv(model / "requests" / "002" / "04_audit" / "earlier.csv")
    assert set(again.model) == {"original", "forget_mi-equal"}
    assert again.auc.between(0, 1).all()


def test_a_request_of_one_patient_has_a_verdict_with_its_power(model):
    facts = json.loads((model / "requests" / "002" / "report.json").read_text())
    (patient,) = facts["patients"]
    assert patient["patient"] == facts["request"]["patients"][0]
    assert patient["verdict"] in (FOUND, PUSHED, NOT_TOLD, COULD_NOT)
    assert 0 <= patient["power"] <= 1
    assert 0 < patient["p_remembered"] <= 1
    assert facts["verdict"] == patient["verdict"]
    assert all(row["auc_low"] is None for row in facts["attacks"])  # averages over one say nothing


def test_the_ledger_and_the_page_have_a_verdict_on_each_patient(model):
    for entry in ServedModel(model).ledger:
        page = (model / "requests" / f"{entry['number']:03d}" / "report.html").read_text()
        assert set(entry["verdicts"]) == set(entry["patients"])
        assert entry["in_words"] in page.replace("&#39;", "'")
        assert all(f"<td><code>{patient}</code></td>" in page for patient in entry["patients"])


def test_the_report_says_what_training_on_brings_back(model):
    facts = json.loads((model / "requests" / "001" / "report.json").read_text())
    assert [row["epochs"] for row in facts["training_on"]] == [0, 1]
    assert all(0 <= row["found_after_training_on"] <= 1 for row in facts["training_on"])


def test_requests_are_served_together_from_the_model_before_them(model, tmp_path):
    own = Path(shutil.copytree(model, tmp_path / "model"))
    whole = Run(own, ServedModel(own).params).cohort()
    rows = whole.table.patient_id.map(ServedModel(own).hashed).isin(ServedModel(own).served())
    traces = traces_of(whole, rows.to_numpy())
    folder = serve_together(own, progress=False)
    served = ServedModel(own)
    first, second, third = served.ledger
    assert third["again"] == [1, 2]
    assert third["patients"] == sorted(first["patients"] + second["patients"])
    assert third["images"] == first["images"] + second["images"]
    assert third["original_sha256"] == first["original_sha256"] != third["unlearned_sha256"]
    assert served.checkpoint() == own / third["checkpoint"]
    assert set(third["verdicts"]) == set(third["patients"])
    assert ledger_problems(own) == []
    split = pd.read_csv(folder / "01_cohort" / "cohort" / "cohort.csv").split
    assert not (split == "forgotten").any()  # as it was before both
    for afresh in (False, True):
        with pytest.raises(InputError, match="no request was served by itself since"):
            serve_together(own, afresh=afresh, progress=False)
    delete_records(own)
    assert set(ServedModel(own).served()) == set(third["patients"])
    assert leaks(own, traces) == []


def test_requests_are_served_afresh_from_the_model_as_it_was_trained(model, tmp_path):
    """Everyone since the training, however often they were served before."""
    own = Path(shutil.copytree(model, tmp_path / "model"))
    first, second = ServedModel(own).ledger
    both = sorted(first["patients"] + second["patients"])
    # As if both had been served together: only the third was served by itself since.
    third = {"number": 3, "patients": both, "again": [1, 2], "approach": "together"}
    left = {name: second[name] for name in ("checkpoint", "served", "report", "verdicts")}
    ServedModel(own).add(third | left)
    assert ServedModel(own).alone_since() == 3
    table = ServedModel(own).cohort().table
    one = table.patient_id[table.split == "train"].iloc[0]
    folder = serve(own, forget_csv(tmp_path / "one.csv", [one]), afresh=True, progress=False)
    entry = ServedModel(own).ledger[-1]
    assert entry["again"] == [1, 2, 3]
    assert entry["patients"] == sorted([*both, ServedModel(own).hashed(one)])
    assert entry["original_sha256"] == first["original_sha256"]
    assert ledger_problems(own) == []
    split = pd.read_csv(folder / "01_cohort" / "cohort" / "cohort.csv").split
    assert not (split == "forgotten").any()  # as it was before any of them


def test_requests_whose_records_were_destroyed_are_not_served_together(model, tmp_path):
    own = Path(shutil.copytree(model, tmp_path / "model"))
    delete_records(own)
    with pytest.raises(InputError, match="001 to 002, was destroyed with their records; they"):
        serve_together(own, progress=False)
    assert len(ServedModel(own).ledger) == 2


def test_reports_and_ledger_show_hashed_ids_only(model):
    named = pd.concat([pd.read_csv(model / f"{n}.csv") for n in (1, 2)]).subject_id
    written = [*(model / "requests").glob("*/report.*"), model / "requests" / "ledger.json"]
    assert len(written) == 5
    for path in written:
        content = path.read_text()
        assert not [patient for patient in named if patient in content], path
    assert "p-" in written[0].read_text()


def test_the_report_says_what_was_done(model):
    facts = json.loads((model / "requests" / "001" / "report.json").read_text())
    page = (model / "requests" / "001" / "report.html").read_text()
    assert facts["verdict"] in page
    assert facts["models"]["after"] in page
    assert facts["shadow_models"] == 4
    assert facts["cohort"] == {"source": "synthetic", "synthetic": True}
    assert {"loss", "lira", "rmia", "linear_probe"} <= {row["attack"] for row in facts["attacks"]}
    assert {row["level"] for row in facts["attacks"]} == {"sample", "patient"}
    assert all(limit in page.replace("&#39;", "'") for limit in facts["limits"])


# ---- what is refused -----------------------------------------------------------------------------


def test_a_patient_is_served_once(model, tmp_path):
    before = (model / "requests" / "ledger.json").read_text()
    staying = trained_patients(model)[0]
    served = pd.read_csv(model / "1.csv").subject_id[3]
    again = forget_csv(tmp_path / "again.csv", [staying, served])
    with pytest.raises(
        InputError,
        match=r"patient p-[0-9a-f]{16} \(2 of 2 named\) was forgotten by request 001 on ",
    ):
        serve(model, again, progress=False)
    assert (model / "requests" / "ledger.json").read_text() == before
    assert not (model / "requests" / "003").exists()


def test_strangers_empty_files_and_missing_files_are_refused(model, tmp_path):
    table = ServedModel(model).cohort().table
    tested = table.patient_id[table.split == "test"].iloc[0]
    with pytest.raises(InputError, match=r"is in test, not in training"):
        serve(model, forget_csv(tmp_path / "t.csv", [tested]), progress=False)
    with pytest.raises(InputError, match="is not in the cohort"):
        serve(model, forget_csv(tmp_path / "n.csv", ["nobody"]), progress=False)
    with pytest.raises(InputError, match="it names no patient"):
        serve(model, forget_csv(tmp_path / "e.csv", []), progress=False)
    with pytest.raises(InputError, match=r"nowhere\.csv"):
        serve(model, tmp_path / "nowhere.csv", progress=False)


def test_a_folder_without_a_model_is_refused_in_one_line(tmp_path):
    (tmp_path / "f.csv").write_text("subject_id\na\n")
    words = [sys.executable, "-m", "forget_mi", "forget", str(tmp_path), str(tmp_path / "f.csv")]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "holds no trained model" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.fixture
def copy(model, tmp_path):
    return shutil.copytree(model, tmp_path / "copy")


def test_a_damaged_ledger_stops_before_anything_is_served(copy):
    (copy / "requests" / "ledger.json").write_text("{")
    with pytest.raises(InputError, match=r"ledger\.json: is damaged"):
        serve(copy, copy / "1.csv", progress=False)


def test_a_model_of_another_cohort_is_refused(copy, tmp_path):
    manifest = ServedModel(copy).checkpoint() / "manifest.json"
    manifest.write_text(
        json.dumps({**json.loads(manifest.read_text()), "cohort_fingerprint": "0" * 16})
    )
    with pytest.raises(
        InputError, match=r"was made on another cohort or split \(fingerprint 0000000000000000"
    ):
        serve(copy, forget_csv(tmp_path / "f.csv", trained_patients(copy)[:1]), progress=False)


def test_a_request_that_was_cut_short_leaves_the_model_in_use_as_it_was(
    copy, tmp_path, monkeypatch
):
    asked = forget_csv(tmp_path / "f.csv", trained_patients(copy)[:1])
    before = ServedModel(copy).checkpoint()

    def stop(*_, **__):
        raise NotebookError("03_unlearn stopped in cell 9")

    monkeypatch.setattr(serving, "run_chain", stop)
    with pytest.raises(NotebookError):
        serve(copy, asked, progress=False)
    assert ServedModel(copy).checkpoint() == before
    assert len(ServedModel(copy).ledger) == 2
    assert (
        copy / "requests" / "003"
    ).is_dir()  # kept to be looked at, and removed by the next request
    profile = yaml.safe_load((copy / "requests" / "003" / "request.yaml").read_text())
    assert profile["retrained"] == 0


# ---- in a browser --------------------------------------------------------------------------------


def test_the_report_opens_in_a_browser_with_every_figure_and_nothing_from_outside(model, chromium):
    for number, figures in (("001", 6), ("002", 7)):
        page = chromium.new_page(viewport={"width": 900, "height": 900})
        asked, errors = [], []
        page.on("request", lambda request, asked=asked: asked.append(request.url))
        page.on("pageerror", lambda error, errors=errors: errors.append(error))
        report = model / "requests" / number / "report.html"
        page.goto(report.as_uri())
        assert [url for url in asked if not url.startswith("data:")] == [report.as_uri()]
        assert errors == []
        images = page.evaluate(
            "[...document.images].map(i => [i.complete, i.naturalWidth, i.alt.length])"
        )
        assert len(images) == figures
        assert all(
            complete and width > 200 and described > 20 for complete, width, described in images
        )
        assert page.inner_text("#verdict strong")
        # Nothing hangs out of a narrow window: wide tables scroll inside themselves.
        page.set_viewport_size({"width": 400, "height": 800})
        assert page.evaluate("document.documentElement.scrollWidth") <= 400
        page.close()


def test_a_retraining_leaves_out_everyone_served_and_is_a_line_of_the_ledger(copy):
    before = ServedModel(copy)
    served = before.served()
    folder = retrain(copy)
    line = ServedModel(copy).ledger[-1]
    assert line["approach"] == "retrain"
    assert line["in_words"] == f"trained again without the {len(served)} patients served so far"
    assert ServedModel(copy).checkpoint() == ServedModel(copy).last_trained()
    assert ServedModel(copy).checkpoint() == folder / "02_train" / "original"
    stay = len(rows_of(ServedModel(copy).cohort(), "train"))
    work = read_manifest(folder / "02_train" / "original")["work"]
    assert work == stay * before.params.training.epochs
    assert stay == len(rows_of(before.cohort(), "train"))
    assert ledger_problems(copy) == []


def test_nobody_served_nothing_to_retrain(copy):
    (copy / "requests" / "ledger.json").unlink()
    with pytest.raises(InputError, match="no request was served"):
        retrain(copy)


def test_wear_is_estimated_from_what_the_owner_has(model, monkeypatch):
    served = ServedModel(model)
    cohort, now = served.cohort(), served.checkpoint()
    request = Request("next", tuple(trained_patients(model)[:2]))
    assert wear_of(served, now, cohort, request) is None  # no alarm for this profile
    alarm = Alarm(0.05, dict.fromkeys(SIGNS, 0.0) | {"share_served": 1.0})
    monkeypatch.setattr(wear, "load_alarm", lambda profile: alarm)
    found = wear_of(served, now, cohort, request)
    gone = sum(entry["images"] for entry in served.ledger)
    asked = len(request.forget_rows(cohort))
    assert found["gap"] == pytest.approx((gone + asked) / (gone + len(rows_of(cohort, "train"))))
    assert found["retrain"]
    assert "retrain, above all because many were served since" in found["in_words"]
    seconds = read_manifest(served.last_trained())["seconds"]
    assert f"a training (the last took {seconds / 3600:.2g} hours), and 2 new" in found["in_words"]
    assert all(value >= 0 for value in found["signs"].values())


def test_without_the_model_as_it_was_trained_no_wear_can_be_told(taught, monkeypatch):
    served = ServedModel(taught[0])
    alarm = Alarm(0.05, dict.fromkeys(SIGNS, 0.0) | {"share_served": 1.0})
    monkeypatch.setattr(wear, "load_alarm", lambda profile: alarm)
    request = Request("next", tuple(trained_patients(taught[0])[:1]))
    found = wear_of(served, served.checkpoint(), served.cohort(), request)
    assert found["gap"] is None
    assert found["retrain"]  # an alarm that can't speak would never call
    assert "02_train/original: the model as it was trained was destroyed" in found["in_words"]


def test_the_profile_of_a_request_is_the_runs(model):
    mine = yaml.safe_load((model / "requests" / "001" / "request.yaml").read_text())
    own = yaml.safe_load((ROOT / "params" / "tiny.yaml").read_text())
    assert mine["training"]["epochs"] == own["training"]["epochs"]
    assert mine["unlearning"]["method"] == own["unlearning"]["method"]


# ---- reference models, and records that are gone -------------------------------------------------

QUICK = {
    "unlearning": {"method": "held_out_targets", "epochs": 1},
    "shadows.count": 0,
    "audit.neighbours": 1,
}


@pytest.fixture(scope="module")
def taught(tmp_path_factory):
    """A trained run after one request by held-out targets, whose patients' records were then
    destroyed, in two goes: the first was interrupted when the cohorts no longer told who they were,
    and the tables still did."""
    folder = tmp_path_factory.mktemp("taught") / "tiny"
    run_chain("tiny", folder, notebooks=["01_cohort", "02_train"], progress=False)
    patients = trained_patients(folder)[:6]
    serve(folder, forget_csv(folder.parent / "1.csv", patients), QUICK, progress=False)
    before = ServedModel(folder).cohort()
    (folder / "02_train" / OUTPUTS).write_bytes(b"what the original said of each record")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Path, "unlink", interrupted)
        with pytest.raises(KeyboardInterrupt):
            delete_records(folder)
    assert not ServedModel(folder).cohort().table.patient_id.isin(patients).any()
    count = delete_records(folder)
    return folder, patients, before, count


def interrupted(path: Path, missing_ok: bool = False, unlink=Path.unlink) -> None:
    if path.suffix == ".ipynb":
        raise KeyboardInterrupt
    unlink(path, missing_ok)


def test_destroyed_records_are_nowhere_below_the_run(taught):
    folder, patients, before, count = taught
    rows = before.table.patient_id.isin(patients)
    assert count == rows.sum() > 0
    told = [before.reports[study] for study in before.table.study_id[rows].unique()]
    assert not (folder / JOURNAL).exists()
    for path in folder.rglob("*"):
        if path.suffix in (".json", ".yaml", ".csv", ".html"):
            content = path.read_text()
            assert not [p for p in patients if p in content], path
            assert not [report for report in told if json.dumps(report)[1:-1] in content], path
    for path in folder.rglob("images.npy"):
        images = np.load(path)
        assert (images[rows.to_numpy()] == 0).all()
        assert (images[~rows.to_numpy()] == before.images[~rows.to_numpy()]).all()
    assert not list(folder.rglob("*.ipynb"))
    assert not list(folder.rglob(OUTPUTS))


def test_no_byte_below_the_run_is_a_destroyed_records(taught):
    folder, patients, before, _ = taught
    rows = before.table.patient_id.isin(patients).to_numpy()
    tokenizer = load_checkpoint(ServedModel(folder).checkpoint()).tokenizer
    traces = traces_of(before, rows, tokenizer)
    assert leaks(folder, traces) == []
    others = traces_of(before, (before.table.split == "train").to_numpy() & ~rows, tokenizer)
    assert len({found.split(":")[0] for found in leaks(folder, others)}) > 2  # it does look


@pytest.mark.parametrize("kind", ["id", "JSON", "tokens as int32", "npz", "PNG", "base64"])
def test_the_search_sees_every_encoding(taught, kind, tmp_path):
    _, patients, before, _ = taught
    rows = before.table.patient_id.isin(patients[:1]).to_numpy()
    tokenizer = load_checkpoint(ServedModel(taught[0]).checkpoint()).tokenizer
    traces, image = traces_of(before, rows, tokenizer), before.images[np.flatnonzero(rows)[0]]
    if kind == "npz":
        np.savez_compressed(tmp_path / "a.npz", images=np.stack([image, image]))
    elif kind in ("PNG", "base64"):
        picture = tmp_path / "a.png"
        Image.fromarray(image[0]).convert("RGB").save(picture)
        if kind == "base64":
            text = base64.b64encode(picture.read_bytes()).decode()
            (tmp_path / "page.html").write_text(f'<img src="data:image/png;base64,{text}">')
            picture.unlink()
    else:
        trace = next(trace for what, trace in traces.items() if kind in what)
        (tmp_path / "a.bin").write_bytes(b"before" + trace + b"after")
    assert leaks(tmp_path, traces)


def test_only_the_models_in_use_are_left(taught, capsys):
    folder, *_ = taught
    served = ServedModel(folder)
    left = {path.parent for path in folder.rglob("model.safetensors")}
    assert left == {
        served.checkpoint(),
        served.reference("reference-1"),
        served.reference("reference-2"),
    }
    assert main(["delete-records", str(folder)]) == 0
    assert capsys.readouterr().out == "records destroyed: 0\n"


def test_where_nobody_was_forgotten_nothing_is_deleted(tmp_path, capsys):
    (tmp_path / "notes.ipynb").write_text("{}")
    assert main(["delete-records", str(tmp_path)]) == 1
    assert "no request was served; there are no records to delete" in capsys.readouterr().err
    assert (tmp_path / "notes.ipynb").exists()


def test_the_references_that_are_left_know_none_of_them(taught):
    folder, *_ = taught
    served = ServedModel(folder)
    gone = set(served.ledger[0]["patients"])
    for name in ("reference-1", "reference-2"):
        now = set(read_manifest(served.reference(name))["patients"])
        assert now
        assert not now & gone


def test_the_next_request_is_served_without_the_records(taught, tmp_path):
    folder = tmp_path / "copy"
    shutil.copytree(taught[0], folder)
    served = ServedModel(folder)
    table = served.cohort().table
    assert (table.split == "deleted").sum() == taught[3]
    second = table.patient_id[table.split == "train"].unique()[:4]
    # One reference is lost: it is trained again, and not on anybody who was served or is asked for
    # by its own fold.
    shutil.rmtree(served.reference("reference-2"))
    before = set(read_manifest(served.reference("reference-1"))["patients"])
    serve(folder, forget_csv(tmp_path / "2.csv", second), QUICK, progress=False)
    again = ServedModel(folder)
    assert [entry["number"] for entry in again.ledger] == [1, 2]
    trained = set(
        read_manifest(folder / "requests" / "002" / "02_train" / "reference-2")["patients"]
    )
    assert not trained & before
    assert not trained & set(again.ledger[0]["patients"])
    everyone = {again.hashed(p) for p in table.patient_id[table.split == "train"]}
    assert trained | before == everyone
    now = set(read_manifest(again.reference("reference-2"))["patients"])
    assert now == trained - set(again.ledger[1]["patients"])


def test_a_served_patient_is_not_served_again_after_deletion(taught, tmp_path):
    folder, patients, *_ = taught
    with pytest.raises(InputError, match=r"was forgotten by request 001"):
        serve(folder, forget_csv(tmp_path / "again.csv", patients[:1]), QUICK, progress=False)


def test_references_of_another_training_are_refused(taught, tmp_path):
    folder = tmp_path / "copy"
    shutil.copytree(taught[0], folder)
    left = trained_patients(folder)[:1]
    path = ServedModel(folder).reference("reference-1") / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest["identity"]["training"]["epochs"] = 99
    path.write_text(json.dumps(manifest))
    with pytest.raises(
        NotebookError, match=r"reference-1: was trained with params.training.epochs = 99, the run"
    ):
        serve(folder, forget_csv(tmp_path / "2.csv", left), QUICK, progress=False)


def test_references_whose_patients_cannot_be_told_are_refused(taught, tmp_path):
    folder = tmp_path / "copy"
    shutil.copytree(taught[0], folder)
    left = trained_patients(folder)[:1]
    path = ServedModel(folder).reference("reference-1") / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest["patients"][0] = "p-0123456789abcdef"
    path.write_text(json.dumps(manifest))
    with pytest.raises(
        NotebookError, match=r"reference-1: names 1 patients who are not in the cohort"
    ):
        serve(folder, forget_csv(tmp_path / "2.csv", left), QUICK, progress=False)
