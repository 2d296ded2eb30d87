"""What helps, one change at a time."""

import pytest

from forget_mi.errors import InputError
from forget_mi.studies import ablation
from forget_mi.studies.ablation import ablate, read_changes
from forget_mi.unlearning import get_method

TINY = {
    "cohort.patients": 40,
    "training.epochs": 1,
    "tuning.seeds": [10, 11],
    "tuning.fractions": [0.1],
}


def write_changes(folder, text: str) -> None:
    path = folder / "params" / "ablations" / "tiny.yaml"
    path.parent.mkdir(parents=True)
    path.write_text(text)


def test_each_change_is_scored_on_each_case_beside_the_original(tmp_path, monkeypatch):
    write_changes(
        tmp_path,
        "approach: held_out_targets\n"
        "changes:\n"
        "  as tuned: {}\n"
        "  one pass: {epochs: 1}\n"
        "  three folds: {references.folds: 3}\n",
    )
    monkeypatch.setattr(ablation, "ROOT", tmp_path)
    table = ablate("tiny", TINY, tmp_path / "cases")
    assert table.change.unique().tolist() == ["nothing done", "as tuned", "one pass", "three folds"]
    assert (table.groupby("change").case.nunique() == 2).all()
    rows = table.set_index(["change", "case"])
    assert (rows.loc["nothing done"].share_of_retraining == 0).all()
    assert (rows.loc["nothing done"][["lost_auc", "stay"]] == 0).all(axis=None)
    share = rows.share_of_retraining
    assert (share["one pass"] < share["as tuned"]).all()
    # Two thirds of the patients teach each of three reference models: other targets.
    assert (rows.score["three folds"] != rows.score["as tuned"]).any()
    folds = tmp_path / "cases" / "references.folds=3" / "seed10-10pct" / "02_train"
    assert {p.name for p in folds.glob("reference-*")} == {f"reference-{k}" for k in (1, 2, 3)}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("approach: held_out_targets\nchange: {}\n", "holds approach, change; allowed are"),
        ("approach: held_out_targets\nchanges: {fast: 3}\n", "change 'fast' is 3; a mapping"),
        ("approach: magic\nchanges: {}\n", "'magic': allowed are"),
    ],
)
def test_a_file_of_changes_of_another_form_is_refused(tmp_path, monkeypatch, text, message):
    write_changes(tmp_path, text)
    monkeypatch.setattr(ablation, "ROOT", tmp_path)
    with pytest.raises(InputError, match=message):
        read_changes("tiny")


def test_a_profile_without_changes_is_told_which_have_some():
    with pytest.raises(InputError, match="there are changes for medpix, medpix-pretrained"):
        read_changes("demo")


@pytest.mark.parametrize("profile", ["medpix", "medpix-pretrained"])
def test_the_committed_changes_are_of_settings_that_there_are(profile):
    approach, changes = read_changes(profile)
    names = get_method(approach).Config.__dataclass_fields__
    of_settings = {key for change in changes.values() for key in change if "." not in key}
    assert of_settings <= set(names)
    assert len(changes) == len({str(change) for change in changes.values()})
