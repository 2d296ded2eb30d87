import json

import pytest
import yaml

from forget_mi.cli import main
from forget_mi.errors import InputError
from forget_mi.runs.models import train_models
from forget_mi.runs.profiles import load_profile, tuned_by
from forget_mi.runs.project import ROOT
from forget_mi.runs.provenance import first_difference
from forget_mi.runs.run import open_run


@pytest.mark.parametrize("profile", sorted(path.stem for path in (ROOT / "params").glob("*.yaml")))
def test_every_committed_profile_resolves(profile, tmp_path):
    needs_data = (
        "root" in yaml.safe_load((ROOT / "params" / f"{profile}.yaml").read_text())["cohort"]
    )
    overrides = {"cohort.root": str(tmp_path)} if needs_data else {}
    params = load_profile(profile, overrides)
    assert yaml.safe_load(params.to_yaml())["profile"] == profile


def test_sections_follow_the_runs_seed_but_the_cohort_does_not():
    params = load_profile("tiny", {"seed": 4})
    assert (params.split.seed, params.request.seed) == (4, 4)
    assert params.cohort["seed"] == 0
    assert load_profile("tiny", {"seed": 4, "split.seed": 1}).split.seed == 1


def test_no_two_models_of_a_study_share_a_seed():
    seeds = []
    for seed in range(3):
        run = open_run("tiny", overrides={"seed": seed, "retrained": 6})
        seeds += [
            run.original_seed,
            *run.retrained_seeds().values(),
            *run.reference_seeds().values(),
        ]
    assert len(seeds) == len(set(seeds)) == 27


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"sead": 1}, "unknown section 'sead'"),
        ({"seed": -1}, "parameter seed = -1: a whole number of at least 0"),
        ({"seed": "one"}, "parameter seed = 'one'"),
        ({"retrained": -1}, "parameter retrained = -1"),
        ({"shadows.count": 5}, r"parameter shadows\.count = 5: an even number of at least 4"),
        ({"references.folds": 1}, r"parameter references\.folds = 1: 0 \(none\), or at least 2"),
        (
            {"references.folds": 0, "unlearning": {"method": "held_out_targets"}},
            r"parameter references\.folds = 0: method held_out_targets learns from reference "
            r"models",
        ),
        ({"beside": ["magic"]}, "unlearning approach 'magic': allowed are forget_mi-equal"),
        (
            {"keep_outputs": True},
            "parameter keep_outputs = True in profile tiny: .*delete the line",
        ),
        ({"training.keep": "best"}, r"parameter training\.keep = 'best' .*delete the line"),
        ({"beside": "scrub-last"}, "parameter beside = 'scrub-last': a list of approaches"),
        ({"shadows.missing": "guess"}, r"shadows\.missing = 'guess'"),
        ({"training.epochs": 0}, r"parameter training\.epochs = 0"),
        ({"training.epoch": 3}, r"unknown parameter training\.epoch = 3; allowed are epochs"),
        ({"request.fraction": 1.5}, r"parameter request\.fraction = 1\.5"),
        (
            {"request.patients": ["a"], "request.fraction": 0.1},
            "exactly one of fraction, patients and csv",
        ),
        ({"unlearning.method": "magic"}, "allowed are forget_mi"),
        ({"unlearning.setting": "loud"}, r"unlearning\.setting = 'loud'"),
        ({"device.device": "tpu"}, r"device\.device = 'tpu'"),
        ({"cohort.source": "mars"}, "cohort.source = 'mars'"),
        ({"seed.deep": 1}, "seed is not a section"),
    ],
)
def test_unknown_and_impossible_parameters_stop(overrides, message):
    with pytest.raises(InputError, match=message):
        load_profile("tiny", overrides)


def test_a_missing_or_broken_profile_stops(tmp_path):
    with pytest.raises(
        InputError, match=r"profile 'demmo': .*known profiles: covid, demo, many, medpix"
    ):
        load_profile("demmo")
    (tmp_path / "bad.yaml").write_text("seed: [1\n")
    with pytest.raises(InputError, match=r"bad\.yaml: can't be read as YAML"):
        load_profile(tmp_path / "bad.yaml")
    (tmp_path / "list.yaml").write_text("- 1\n")
    with pytest.raises(InputError, match="holds no mapping"):
        load_profile(tmp_path / "list.yaml")


def test_a_stage_is_read_only_when_it_was_finished_with_the_same_params(tmp_path):
    run = open_run("tiny", tmp_path / "r")
    with pytest.raises(InputError, match="run notebook 01_cohort first"):
        run.require("01_cohort")
    run.start("01_cohort")
    with pytest.raises(InputError, match="has not been finished"):
        run.require("01_cohort")
    run.finish("01_cohort")
    assert run.require("01_cohort") == tmp_path / "r" / "01_cohort"
    other = open_run("tiny", tmp_path / "r", {"cohort.patients": 61})
    with pytest.raises(
        InputError, match=r"was made with cohort\.patients = 60, the params here say 61"
    ):
        other.require("01_cohort")
    # A parameter that the stage does not depend on may change.
    assert open_run("tiny", tmp_path / "r", {"unlearning.sigma": 0.9}).require("01_cohort")
    run.start("01_cohort")
    with pytest.raises(InputError, match="has not been finished"):
        run.require("01_cohort")


def test_the_manifest_says_where_a_stage_came_from(tmp_path):
    run = open_run("tiny", tmp_path / "r")
    run.start("01_cohort")
    run.finish("01_cohort", cohort_fingerprint="abc")
    manifest = json.loads((tmp_path / "r" / "01_cohort" / "manifest.json").read_text())
    assert manifest["cohort_fingerprint"] == "abc"
    assert manifest["packages"]["torch"]
    assert len(manifest["code"]["library"]) == 12
    assert manifest["params"]["cohort"]["patients"] == 60
    assert yaml.safe_load((tmp_path / "r" / "01_cohort" / "params.yaml").read_text())["seed"] == 0


def test_first_difference_names_the_place():
    assert first_difference({"a": {"b": 1}}, {"a": {"b": 2}}, "s") == ("s.a.b", 1, 2)
    assert first_difference({"a": 1}, {}, "s") == ("s.a", 1, None)


def test_models_trained_side_by_side_are_those_trained_one_by_one(
    tmp_path, monkeypatch, cohort, request_10
):
    overrides = {"device.threads": 1, "training.epochs": 1}
    hashes = {}
    for cores in ("1", "2"):
        monkeypatch.setenv("LOKY_MAX_CPU_COUNT", cores)
        run = open_run("tiny", tmp_path / cores / "run", overrides)
        made = train_models(run, ["original", "retrained-1", "reference-1"], cohort, request_10)
        hashes[cores] = {name: manifest["weights_sha256"] for name, manifest in made.items()}
    assert len(set(hashes["1"].values())) == 3
    assert hashes["1"] == hashes["2"]


# ---- what a profile leaves to the caller ---------------------------------------------------------


def test_a_file_or_a_list_of_patients_replaces_the_profiles_fraction():
    """Wherever the override comes from: the rule is the profiles', not the command line's."""
    assert load_profile("tiny").request.fraction is not None
    by_file = load_profile("tiny", {"request.csv": "/some/forget.csv"}).request
    by_list = load_profile("tiny", {"request.patients": ["S1"]}).request
    nested = load_profile("tiny", {"request": {"csv": "/some/forget.csv"}}).request
    assert str(by_file.csv) == str(nested.csv) == "/some/forget.csv"
    assert by_list.patients == ("S1",)
    assert by_file.fraction is by_list.fraction is nested.fraction is None


def test_a_profile_without_its_data_says_what_to_pass():
    with pytest.raises(InputError, match=r"DATA=<folder> with make, --data <folder>"):
        load_profile("covid")


def test_a_run_folder_that_cannot_be_written_is_one_line(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    where = tmp_path / "file" / "run"
    assert main(["run", "tiny", "--run-dir", str(where)]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert str(where) in line
    assert "can't be written" in line


def test_a_profile_says_what_its_methods_were_tuned_on():
    assert tuned_by("demo") == tuned_by("covid") == "demo"
    assert tuned_by("tiny") is None
    for path in (ROOT / "notebooks").glob("*.ipynb"):
        cells = json.loads(path.read_text())["cells"]
        code = "".join("".join(c["source"]) for c in cells if c["cell_type"] == "code")
        assert '"tuned": "' not in code, f"{path.name} takes settings that the profile did not name"


def test_params_of_an_earlier_version_are_read(tmp_path):
    """Every params.yaml of a run from before has these lines."""
    old = yaml.safe_load((ROOT / "params" / "tiny.yaml").read_text())
    old["keep_outputs"] = False
    old.setdefault("training", {})["keep"] = "last"
    (tmp_path / "old.yaml").write_text(yaml.safe_dump(old))
    params, present = load_profile(tmp_path / "old.yaml"), load_profile("tiny")
    assert params.as_dict("training", "request", "model") == present.as_dict(
        "training", "request", "model"
    )
