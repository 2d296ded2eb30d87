"""The studies past the paper: the measures against cases worked by hand, and each study on tiny
models."""

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from conftest import make_cohort
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import norm

from forget_mi.attacks.base import Evidence, margins
from forget_mi.data.cohorts import synthetic
from forget_mi.data.requests import Request, make_request
from forget_mi.data.splits import split_by_patient
from forget_mi.errors import InputError
from forget_mi.evaluation import iam, ruli
from forget_mi.evaluation.comparison import CLOSENESS
from forget_mi.evaluation.klom import FLOOR, klom
from forget_mi.plots import beyond as beyond_plots
from forget_mi.runs.policies import quick
from forget_mi.runs.project import ROOT
from forget_mi.runs.run import open_run
from forget_mi.studies import beyond, beyond_tables, budgets
from forget_mi.studies.beyond_tables import BEYOND
from forget_mi.studies.budgets import apply_change, with_folds, within_budgets
from forget_mi.studies.many_models import many_against_many
from forget_mi.studies.sequence import mark_served, sequence, split_request, update_references
from forget_mi.studies.study import approach_settings, train_study
from forget_mi.training.prediction import Predictions
from forget_mi.training.shadows import Shadows
from forget_mi.unlearning import held_out_targets

# ---- measures ------------------------------------------------------------------------------------


def test_klom_of_a_case_worked_by_hand():
    # Range 0 to 2 in 20 bins: unlearned 3 of 4 in the first and 1 in the last, retrained half and
    # half.
    unlearned, retrained = np.array([[0.0, 0, 0, 2]]).T, np.array([[0.0, 0, 2, 2]]).T
    expected = 0.75 * np.log(0.75 / 0.5) + 0.25 * np.log(0.25 / 0.5)
    assert klom(unlearned, retrained)[0] == pytest.approx(expected)
    # Where no retrained model is, its share is the floor.
    apart = klom(np.array([[5.0, 5.0]]).T, np.array([[0.0, 0.0]]).T)[0]
    assert apart == pytest.approx(np.log(1 / FLOOR))


@settings(max_examples=40, deadline=None)
@given(st.integers(2, 12), st.integers(1, 6), st.integers(0, 999))
def test_klom_of_the_same_models_is_zero_and_shifts_do_not_matter(models, records, seed):
    rng = np.random.default_rng(seed)
    a, b = rng.normal(size=(models, records)), rng.normal(size=(models, records))
    assert klom(a, a) == pytest.approx(np.zeros(records), abs=1e-12)
    assert (klom(a, b) > -1e-6).all()
    assert klom(a[rng.permutation(models)], b) == pytest.approx(klom(a, b))
    assert (
        klom(np.full((models, records), 3.0), np.full((models, records), 3.0)).tolist()
        == [0.0] * records
    )


def test_klom_is_clipped():
    far, further = np.array([[1e6, -100.0]]).T, np.array([[100.0, -1e9]]).T
    assert klom(far, further)[0] == pytest.approx(0)


def test_rulis_game_is_a_half_between_alike_models_and_one_between_far_ones():
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(16, 200)), rng.normal(size=(16, 200))
    assert ruli.efficacy(a, b) == pytest.approx(0.5, abs=0.03)
    assert ruli.efficacy(a + 10, b) > 0.999
    # Two Gaussians one sigma apart: the area is Phi(1 / sqrt 2).
    assert ruli.efficacy(a + 1, b) == pytest.approx(norm.cdf(1 / np.sqrt(2)), abs=0.03)


def test_a_model_is_not_judged_by_itself():
    # If the model that is scored took part in its own fit, pure noise would be told apart.
    rng = np.random.default_rng(1)
    values = [ruli.efficacy(rng.normal(size=(3, 50)), rng.normal(size=(3, 50))) for _ in range(40)]
    assert np.mean(values) < 0.53


def predictions(margin: list[float]) -> Predictions:
    """Two classes, label 1, of a text tower alone: the margin is the difference of the logits."""
    n = len(margin)
    logits = np.stack([np.zeros(n), np.asarray(margin, float)], -1)
    empty = np.zeros((n, 0))
    return Predictions(empty, logits, empty, np.zeros((n, 1)), np.ones(n, dtype=int), np.arange(n))


def test_completeness_runs_from_fitted_to_generalised():
    shadows = Shadows(
        [predictions([1.0, 1, 1, 1]), predictions([3.0, 3, 3, 9])],
        member=np.array([[False] * 4, [False, False, False, True]]),
        stranger=np.array([[True] * 4, [True, True, True, False]]),
    )
    original = predictions([10.0, 10, 10, 1])
    found = iam.completeness(predictions([10.0, 2, -6, 0]), original, shadows, "fused")
    assert found[:3].tolist() == pytest.approx([0, 1, 2])
    assert np.isnan(found[3])  # the original is no surer than those who never saw it


# ---- cohorts and requests ------------------------------------------------------------------------


def test_noise_of_the_patient_is_shared_by_all_that_is_theirs():
    own = synthetic.load(synthetic.SyntheticConfig(patients=60, image_size=32, noise_of="patient"))
    assert own.table.groupby("patient_id").label.nunique().max() == 1
    other = synthetic.load(synthetic.SyntheticConfig(patients=60, image_size=32))
    assert other.table.groupby("patient_id").label.nunique().max() > 1
    assert own.table.patient_id.unique().tolist() == other.table.patient_id.unique().tolist()
    assert own.table.label.nunique() == 4


@settings(max_examples=20, deadline=None)
@given(st.integers(10, 30), st.integers(0, 99))
def test_one_study_of_each_training_patient_with_several_is_held_out(patients, seed):
    cohort = synthetic.load(synthetic.SyntheticConfig(patients=patients, image_size=32, seed=seed))
    sides = np.where(pd.factorize(cohort.table.patient_id)[0] % 3 == 0, "test", "train")
    cohort = replace(cohort, table=cohort.table.assign(split=sides))
    held = beyond.hold_out_study(cohort, seed).table
    for _, rows in held.groupby("patient_id"):
        studies = rows.groupby("study_id").split.unique()
        away = sum("other_study" in side for side in studies)
        assert away == (rows.split.iloc[0] != "test" and len(studies) > 1)
        assert all(len(side) == 1 for side in studies)
    assert (held.split == "test").equals(cohort.table.split == "test")


@settings(max_examples=30, deadline=None)
@given(st.integers(10, 25), st.integers(2, 10), st.integers(0, 99))
def test_a_request_is_cut_into_parts_of_about_the_same_size(patients, parts, seed):
    rng = np.random.default_rng(seed)
    images = np.repeat(np.arange(patients), rng.integers(1, 4, patients))
    cohort = make_cohort([f"p{i}" for i in images], [0] * len(images), ("only",))
    cohort = replace(cohort, table=cohort.table.assign(split="train"))
    whole = Request("all", tuple(f"p{i}" for i in range(patients)))
    found = split_request(cohort, whole, parts, seed)
    assert sorted(p for part in found for p in part.patients) == sorted(whole.patients)
    sizes = [len(part.forget_rows(cohort)) for part in found]
    assert max(sizes) - min(sizes) <= 3
    assert found == split_request(cohort, whole, parts, seed)


def test_a_request_of_few_patients_cannot_be_cut_into_many():
    cohort = make_cohort(["a", "b"], [0, 1])
    cohort = replace(cohort, table=cohort.table.assign(split="train"))
    with pytest.raises(InputError, match="request few: 2 patients can't be cut into 3 requests"):
        split_request(cohort, Request("few", ("a", "b")), 3, 0)


# ---- studies -------------------------------------------------------------------------------------

QUICK = held_out_targets.Config(epochs=1, learning_rate=1e-3)


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    folder = tmp_path_factory.mktemp("beyond")
    run = open_run("tiny", folder / "run", {"shadows.count": 0, "request.fraction": 0.2})
    cohort = split_by_patient(run.source(), run.params.split)
    return train_study(run, cohort, make_request(cohort, run.params.request))


def test_a_row_is_the_gap_to_the_retrained_models(study):
    found = study.forget("held_out_targets", QUICK)
    row = study.row("held_out_targets", found)
    gaps = [abs(row[name] - np.mean([r[name] for r in study.retrained])) for name in CLOSENESS]
    assert row["mean_gap"] == pytest.approx(np.mean(gaps))
    assert row["share_of_retraining"] == pytest.approx(found.work / study.retraining_work)
    assert row["share_of_references"] > 0
    assert row["one_off_trainings"] == pytest.approx(1.0)
    assert (
        study.row("x", study.forget("fine_tune", approach_settings("fine_tune", None)))[
            "one_off_trainings"
        ]
        == 0
    )


def test_within_a_budget_is_within_it(study):
    for approach in ("fine_tune", "held_out_targets"):
        settings_ = approach_settings(approach, None)
        found = within_budgets(study, approach, settings_, (0.01, 1.0, 1.5))
        assert found[0.01] is None
        for budget, each in found.items():
            assert each is None or each.work <= 1.02 * budget * study.retraining_work


def test_changes_multiply_or_replace():
    settings_ = held_out_targets.Config(epochs=7, learning_rate=0.001, retain_batch=16)
    assert apply_change(settings_, {"epochs": 0.5}).epochs == 4
    assert apply_change(settings_, {"learning_rate": 2.0}).learning_rate == 0.002
    assert apply_change(settings_, {"batch_norm": "frozen"}).batch_norm == "frozen"
    for change in budgets.ABLATIONS.values():
        apply_change(settings_, change)


def test_more_folds_are_references_of_their_own_beside_the_same_original(study):
    more = with_folds(study, 3)
    assert list(more.references.checkpoints) == ["reference-1", "reference-2", "reference-3"]
    assert more.one_off_trainings == pytest.approx(2.0, abs=0.1)
    assert study.one_off_trainings == pytest.approx(1.0, abs=0.1)
    weights = [each.original.manifest["weights_sha256"] for each in (study, more)]
    assert weights[0] == weights[1]
    everyone = set().union(*more.references.saw.values())
    assert all(
        sum(patient in saw for saw in more.references.saw.values()) == 2 for patient in everyone
    )
    assert more.run.folder.parent == study.run.folder.parent


def test_one_request_after_another_ends_with_everyone_forgotten(study):
    table = sequence(study, "held_out_targets", QUICK, 3)
    assert table.request.tolist() == [1, 2, 3]
    assert table.share_of_retraining.is_monotonic_increasing
    assert np.isfinite(table.margin_over_retrained).all()


def test_served_together_after_the_last_they_end_as_one_request_does(study):
    """The last row is of the model that the whole request leaves, and its cost is of both."""
    table = sequence(study, "held_out_targets", QUICK, 3, together=True)
    assert table.approach.unique().tolist() == ["held_out_targets-together"]
    once = study.row("held_out_targets", study.forget("held_out_targets", QUICK))
    alone = sequence(study, "held_out_targets", replace(QUICK, **quick(QUICK)), 3)
    last, before = table.iloc[-1], alone.iloc[-1]
    for measure in ("mean_gap", "retain_loss", "test_auc"):
        assert last[measure] == pytest.approx(once[measure], abs=1e-6)
        assert table[measure].iloc[1] == pytest.approx(alone[measure].iloc[1], abs=1e-6)
    assert last.share_of_retraining == pytest.approx(
        before.share_of_retraining + once["share_of_retraining"]
    )
    assert last.share_of_references == pytest.approx(
        before.share_of_references + once["share_of_references"]
    )


def test_the_second_request_reads_nothing_of_the_first_patients(study):
    first, second = split_request(study.cohort, study.request, 2, 0)
    one = replace(study, request=first)
    forgotten = one.forget("held_out_targets", QUICK)
    left = update_references(study.references, forgotten.references, first)
    gone = study.cohort.table.patient_id.isin(first.patients).to_numpy()
    # The records are destroyed, not only moved to another side.
    images = np.where(gone[:, None, None, None], 0, study.cohort.images)
    reports = {
        k: "gone" if k in set(study.cohort.table.study_id[gone]) else v
        for k, v in study.cohort.reports.items()
    }

    def serve(cohort):
        now = replace(
            study, cohort=mark_served(cohort, first.patients), request=second, references=left,
            original=replace(study.original, model=forgotten.model),
        )  # fmt: skip
        return now.forget("held_out_targets", QUICK).model.state_dict()

    kept, destroyed = (
        serve(study.cohort),
        serve(replace(study.cohort, images=images, reports=reports)),
    )
    assert all((kept[name] == destroyed[name]).all() for name in kept)


def test_the_other_study_of_an_untouched_model_is_a_number(study):
    cohort = beyond.hold_out_study(study.cohort, 0)
    value = beyond.other_study_auc(replace(study, cohort=cohort), study.original)
    assert 0 <= value <= 1


def test_many_against_many_shows_the_floor_and_who_is_told():
    rng = np.random.default_rng(0)
    retrained = list(rng.normal(size=(40, 60)))
    table = many_against_many(
        list(rng.normal(6, 1, size=(20, 60))), {"good": list(rng.normal(size=(20, 60)))}, retrained
    ).set_index("approach")
    assert table.klom_forget_mean["retrained"] == table.klom_forget_floor["retrained"]
    assert table.klom_forget_mean["good"] == pytest.approx(table.klom_forget_floor["good"], rel=0.2)
    assert table.klom_forget_mean["original"] > 2 * table.klom_forget_floor["original"]
    assert table.ruli_efficacy_auc["original"] > 0.99
    assert table.ruli_efficacy_auc["good"] == pytest.approx(0.5, abs=0.05)


def test_margins_of_a_study_are_those_of_its_evidence(study):
    evidence = study.evidence(study.original)
    assert isinstance(evidence, Evidence)
    assert len(margins(evidence.forget, "fused")) == len(study.request.forget_rows(study.cohort))


# ---- tables --------------------------------------------------------------------------------------


def test_rows_of_a_cohort_are_replaced_where_they_stood(tmp_path, monkeypatch):
    monkeypatch.setattr(beyond_tables, "ROOT", tmp_path)
    (tmp_path / "figures").mkdir()
    for cohort, gap in (("demo", 0.1), ("real", 0.2), ("other", 0.3), ("demo", 0.4), ("real", 0.5)):
        beyond_tables.write_beyond(pd.DataFrame({"cohort": [cohort] * 2, "mean_gap": gap}))
    table = pd.read_csv(tmp_path / "figures" / "beyond.csv")
    assert table.cohort.tolist() == ["demo"] * 2 + ["real"] * 2 + ["other"] * 2
    assert table.mean_gap.tolist() == [0.4] * 2 + [0.5] * 2 + [0.3] * 2


def test_the_committed_table_is_made_from_the_committed_parts():
    figures = ROOT / "figures"
    table = pd.read_csv(figures / "beyond.csv")
    assert list(table.columns) == list(BEYOND)
    table = table[table.cohort == "demo"]
    many = pd.read_csv(figures / "beyond_many.csv").set_index("approach")
    single = table[
        (table.requests == 1) & (table.forget_fraction == table.forget_fraction.max())
    ].set_index("method")
    assert single.klom_forget_mean["held_out_targets"] == pytest.approx(
        many.klom_forget_mean["held_out_targets"]
    )
    last = pd.read_csv(figures / "beyond_sequence.csv").query("approach == 'held_out_targets'")
    last = last[last.request == last.request.max()]
    row = table[(table.requests > 1) & (table.method == "held_out_targets")].iloc[0]
    assert row.mean_gap == pytest.approx(last.mean_gap.mean(), rel=1e-4)
    frontier = pd.read_csv(figures / "beyond_frontier.csv")
    budgeted = frontier.dropna(subset="budget")
    assert (budgeted.share_of_retraining <= 1.02 * budgeted.budget).all()


def test_the_pictures_draw_the_committed_tables():
    figures = ROOT / "figures"
    assert len(beyond_plots.frontier(pd.read_csv(figures / "beyond_frontier.csv")).axes) == 2
    assert (
        len(beyond_plots.request_sequence(pd.read_csv(figures / "beyond_sequence.csv")).axes) == 4
    )
    assert json.loads(json.dumps(list(beyond.PARTS)))[-1] == "many"


def test_the_picture_of_training_on_draws_the_committed_table():
    table = pd.read_csv(ROOT / "figures" / "beyond_training_on.csv")
    assert len(beyond_plots.training_on(table).axes) == 2
    assert {"held_out_targets", "retrained", "original"} <= set(table.approach)
