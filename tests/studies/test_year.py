"""A year of requests, on tiny models."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from forget_mi.data import make_request, split_by_patient
from forget_mi.errors import InputError
from forget_mi.evaluation.wear import IN_WORDS, SIGNS, WearModel
from forget_mi.plots import year as year_plots
from forget_mi.runs import open_run, shadows
from forget_mi.runs.policies import (
    MONTH,
    POLICIES,
    QUARTER,
    QUICK,
    Alarm,
    Policy,
    get_policy,
    period_ended,
    quick,
)
from forget_mi.studies import year as module
from forget_mi.studies import year_tables
from forget_mi.studies.costs import AT_EACH, policy_costs
from forget_mi.studies.letters import DAYS, Letter, LetterConfig, draw_letters
from forget_mi.studies.moves import moves_of_requests, target_margins, undone_by
from forget_mi.studies.study import UnlearningResult, approach_settings, train_study
from forget_mi.studies.year import COLUMNS, Year
from forget_mi.studies.year_tables import alarm_quality, year_table
from forget_mi.unlearning import get_method

# ---- letters -------------------------------------------------------------------------------------


def test_letters_name_nobody_twice_and_come_in_order():
    letters = draw_letters([str(i) for i in range(300)], LetterConfig(), seed=3)
    named = [patient for letter in letters for patient in letter.patients]
    assert len(named) == len(set(named)) > 20
    days = [letter.received for letter in letters]
    assert days == sorted(days)
    assert days[0] >= 0
    assert days[-1] < DAYS
    assert letters == draw_letters([str(i) for i in range(300)], LetterConfig(), seed=3)


def test_letters_as_many_as_asked_for():
    counts = [
        len(draw_letters(range(2000), LetterConfig(a_week=2, ward=0), seed)) for seed in range(40)
    ]
    assert np.mean(counts) == pytest.approx(104, abs=5)  # standard error 1.6


def test_letters_of_more_than_half_the_patients_are_refused():
    with pytest.raises(InputError, match="more than half of the 20 patients"):
        draw_letters(range(20), LetterConfig(a_week=5), seed=0)
    with pytest.raises(InputError, match="at most 1"):
        draw_letters(range(20), LetterConfig(family=0.7, ward=0.5), seed=0)


def test_the_picture_of_the_letters_shows_each_one():
    table = pd.DataFrame(draw_letters(range(500), LetterConfig(urgent=0.3), seed=1))
    axis = year_plots.letters(table.assign(named=table.patients.map(len))).axes[0]
    shown = {line.get_label(): len(line.get_xdata()) for line in axis.lines}
    assert shown == {"letter": (~table.urgent).sum(), "urgent": table.urgent.sum()}
    assert shown["urgent"] > 0


# ---- policies ------------------------------------------------------------------------------------


def letter(day: float, urgent: bool = False) -> Letter:
    return Letter(day, (f"p{day}",), urgent)


def test_when_a_policy_serves():
    waiting = [letter(1), letter(3)]
    assert POLICIES["at_once"].due(waiting, 3) == waiting[:1]
    assert POLICIES["weekly"].due(waiting, 6.9) == []
    assert POLICIES["weekly"].due(waiting, 7) == waiting
    assert POLICIES["weekly"].due_day(letter(7)) == 14
    assert POLICIES["monthly"].due_day(letter(80)) == DAYS / 4
    assert POLICIES["monthly"].due_day(letter(80, urgent=True)) == 80
    assert POLICIES["monthly"].due([*waiting, letter(4, urgent=True)], 4) == [letter(4, True)]
    assert POLICIES["retrain_monthly"].due([*waiting, letter(4, urgent=True)], 4) == []
    assert POLICIES["monthly"].due([], 400) == []
    assert pytest.approx(DAYS / 4) == 3 * MONTH
    with pytest.raises(InputError, match="policy 'daily': allowed are at_once"):
        get_policy("daily")


def test_when_a_period_has_ended():
    assert period_ended(MONTH, 30, 31)
    assert not period_ended(MONTH, 31, 60)
    assert period_ended(MONTH, 90, 91)  # three months are a quarter, to the day
    assert not period_ended(MONTH, 91, 121)
    assert period_ended(QUARTER, 3, 300)
    assert not period_ended(QUARTER, 300, 300)


def test_quick_settings_are_those_of_methods_that_take_such_steps():
    assert quick(get_method("held_out_targets").Config) == QUICK
    assert quick(get_method("retrain").Config) == {}  # a retraining is not cut short
    assert quick(get_method("ssd").Config()) == {}


# ---- the alarm -----------------------------------------------------------------------------------


def test_wear_is_fitted_and_never_falls_with_a_sign():
    rng = np.random.default_rng(0)
    signs = pd.DataFrame(rng.random((30, len(SIGNS))), columns=list(SIGNS))
    known = dict(zip(SIGNS, (0.3, 0.0, 0.5, 0.1), strict=True))
    gaps = sum(known[name] * signs[name] for name in SIGNS)
    fitted = WearModel.fit(signs, gaps)
    assert fitted.coefficients == pytest.approx(known, abs=1e-9)
    assert fitted.gap(signs.iloc[4]) == pytest.approx(gaps[4])
    largest = max(SIGNS, key=lambda name: known[name] * signs[name][4])
    assert fitted.reason(signs.iloc[4]) == IN_WORDS[largest]
    opposed = WearModel.fit(signs, gaps - 0.4 * signs.share_served)
    assert min(opposed.coefficients.values()) == 0
    with pytest.raises(InputError, match="more than 4 are needed"):
        WearModel.fit(signs.head(3), gaps[:3])
    with pytest.raises(InputError, match="not finite"):
        WearModel.fit(signs.assign(share_served=np.nan), gaps)


# ---- the year ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    changes = {"shadows.count": 0, "training.epochs": 1}
    run = open_run("tiny", tmp_path_factory.mktemp("year"), changes)
    cohort = split_by_patient(run.source(), run.params.split)
    return train_study(run, cohort, make_request(cohort, run.params.request))


@pytest.fixture(scope="module")
def letters(study):
    train = study.cohort.table[study.cohort.table.split == "train"].patient_id.unique()[:3]
    days = (3, 100, 101)
    return [Letter(float(d), (str(p),), False) for d, p in zip(days, train, strict=True)]


def year_of(study, letters, name: str, **more) -> Year:
    settings = approach_settings("held_out_targets", "demo", epochs=1)
    how = (name, get_policy(name), letters, study.run.folder / "year")
    return Year(study, "held_out_targets", settings, *how, **more)


@pytest.mark.parametrize("name", ["at_once", "retrain_quarterly"])
def test_a_year_serves_every_letter(study, letters, name):
    table = year_of(study, letters, name).run()
    assert table.moment.eq("in_use").all()
    assert table.week.tolist() == [13, 26, 39, 52]
    assert table.served.tolist() == [1, 3, 3, 3]
    assert table.waiting.eq(0).all()
    liras = {f"{whose}lira_{by}auc" for whose in ("", "retrained_") for by in ("", "patient_")}
    assert set(COLUMNS) - set(table) <= liras
    assert table.trainings.is_monotonic_increasing
    if name == "retrain_quarterly":
        # Two trainings, each without those served so far; nobody waits longer than a quarter.
        assert 1 < table.trainings.iloc[-1] < 2
        assert table.alarms.eq(0).all()
        assert table.trainings_of_references.eq(0).all()


@pytest.mark.parametrize("afresh", [False, True])
def test_those_served_in_a_month_are_served_together_at_its_end(study, monkeypatch, afresh):
    """From the model as it was before the first of them, by the settings as they are; afresh, with
    everyone before, from the first model."""
    train = study.cohort.table[study.cohort.table.split == "train"].patient_id.unique()[:4]
    days = (3, 20, 40, 100)
    letters = [Letter(float(d), (str(p),), False) for d, p in zip(days, train, strict=True)]
    year = year_of(study, letters, "at_once-together-afresh" if afresh else "at_once-together")
    seen = []

    def watched(now, cohort, served, request, method, settings, *, seed):
        after = replace(now, original=replace(now.original, manifest={"made": len(seen) + 1}))
        before = now.original.manifest.get("made", 0)
        seen.append((before, len(served), len(request.patients), settings.retain_batch))
        return after, UnlearningResult(now.original.model, {}, 0.0, 10.0)

    monkeypatch.setattr(module, "serve_next", watched)
    year._found_now = lambda: dict.fromkeys(map(str, train), False)
    table = year.run()
    few, all_of_them = QUICK["retain_batch"], year.settings.retain_batch
    assert few < all_of_them
    assert seen == [
        (0, 0, 1, few),
        (1, 1, 1, few),
        (0, 0, 2, all_of_them),  # day 31: both, from the first model
        (3, 2, 1, few),
        (0, 0, 3, all_of_them) if afresh else (3, 2, 1, all_of_them),
        (5, 3, 1, few),
        (0, 0, 4, all_of_them) if afresh else (5, 3, 1, all_of_them),
    ]
    assert table.served.iloc[-1] == 4
    assert table.trainings.iloc[-1] == pytest.approx(70 / year._training_work)


def test_a_queue_is_served_afresh_with_everyone_before(study, letters, monkeypatch):
    seen = []

    def watched(now, cohort, served, request, method, settings, *, seed):
        seen.append((now is study, len(served), len(request.patients)))
        return replace(now), UnlearningResult(now.original.model, {}, 0.0, 10.0)

    monkeypatch.setattr(module, "serve_next", watched)
    year = year_of(study, letters, "monthly-afresh")
    year._found_now = lambda: {p: False for each in letters for p in each.patients}
    assert year.run().served.tolist() == [1, 3, 3, 3]
    assert seen == [(True, 0, 1), (True, 0, 3)]


def test_a_retraining_leaves_nobody_to_be_served_together(study, letters):
    year = year_of(study, letters, "at_once-together-quarterly")
    table = year.run()
    assert not year._since_together
    assert table.retrainings.tolist() == [0, 1, 1, 2, 2, 2]
    assert table.served.iloc[-1] == 3


def test_a_quarter_ends_with_the_model_that_was_in_use_and_with_the_new_one(study, letters):
    year = year_of(study, letters, "at_once-quarterly")
    year._closeness = lambda: {"mean_gap": float(year._retrainings)}
    table = year.run()
    assert table.week.tolist() == [13, 13, 26, 26, 39, 52]  # no letter comes after week 14
    assert table.moment.tolist() == [*["in_use", "renewed"] * 2, "in_use", "in_use"]
    assert table.mean_gap.tolist() == [0, 1, 1, 2, 2, 2]
    assert table.trainings.diff().gt(0).tolist() == [False, True, True, True, False, False]


def test_exposure_counts_the_days_on_which_a_patient_is_found(study, letters):
    year = year_of(study, letters[:1], "at_once")
    (patient,) = letters[0].patients
    year._found_now = lambda: {patient: not year._served}
    table = year.run()
    assert table.exposure_days.tolist() == [0, 0, 0, 0]  # served on the day of the letter
    later = year_of(study, letters[:1], "monthly")
    later._found_now = lambda: {patient: not later._served}
    assert later.run().exposure_days.iloc[-1] == np.ceil(MONTH) - letters[0].received


def test_an_alarm_brings_a_new_model(study, letters):
    always = WearModel(dict.fromkeys(SIGNS, 0.0) | {"share_served": 1.0})
    year = year_of(study, letters, "at_once-alarm", wear=always, threshold=0.0)
    table = year.run()
    assert table.alarms.tolist() == [1, 3, 3, 3]
    assert table.trainings.iloc[-1] > 2
    assert table.trainings_of_references.iloc[-1] > 2
    never = year_of(study, letters, "at_once-alarm", wear=always, threshold=9.0)
    assert never.run().alarms.eq(0).all()
    with pytest.raises(InputError, match="not calibrated"):
        year_of(study, letters, "at_once-alarm")


def test_tables_of_the_year_and_of_the_alarm():
    weeks = [13, 26, 39, 52]
    rows = pd.concat(
        pd.DataFrame(
            dict.fromkeys({*COLUMNS, AT_EACH}, 0.5)
            | {"policy": policy, "seed": seed, "week": weeks, "moment": "in_use"}
            | {"mean_gap": gaps, "wear": wears}
        )
        for policy, gaps, wears in (
            ("at_once", [0.02, 0.04, 0.06, 0.2], [0.03, 0.04, 0.045, 0.3]),
            ("retrain_monthly", [0.5] * 4, [0.0] * 4),
        )
        for seed in (3, 4)
    )  # fmt: skip
    (found,) = alarm_quality(rows, 0.05).to_dict("records")
    assert found == {"models": 8, "rank_correlation": pytest.approx(1), "missed": 0.5,
                     "false": 0.0, "missed_above_twice": 0.0}  # fmt: skip
    table = year_table(rows).set_index("policy")
    assert table.loc["at_once", "gap"] == "0.200"
    assert table.loc["at_once", "largest"] == "0.200"
    assert table.loc["at_once", "seeds"] == "2"
    last = rows[(rows.week == 52) & (rows.policy == "at_once") & (rows.seed == 3)]
    after = last.assign(moment="renewed", mean_gap=0.01, trainings=1.5)
    table = year_table(pd.concat([rows, after])).set_index("policy")
    shown = ["trainings", "of retraining at each", "gap", "largest", "renewed"]
    # One of two seeds is renewed: the costs are those at the end, the gap that of the model in use.
    assert table.loc["at_once", shown].tolist() == ["1.00", "3.00", "0.200", "0.200", "0.010"]
    assert table.loc["retrain_monthly", "renewed"] == ""
    assert year_plots.policies(pd.concat([rows, after])).axes
    assert year_plots.alarm(rows, 0.05).axes


def test_a_year_is_finished_in_parts_and_its_alarm_is_calibrated_once(tmp_path, monkeypatch):
    asked, saved = [], []

    def simulated(job):
        asked.append((job.policy, job.seed))
        share = 0.01 * job.seed + 0.1 * np.arange(1, 5)
        signs = pd.DataFrame(np.outer(share, np.ones(len(SIGNS))), columns=SIGNS)
        rows = pd.DataFrame(dict.fromkeys(COLUMNS, 0.1), index=range(4)).assign(**signs)
        rows = rows.assign(policy=job.policy, seed=job.seed, week=[13, 26, 39, 52])
        return rows.assign(mean_gap=share, moment="in_use")

    (tmp_path / "figures").mkdir()
    monkeypatch.setattr(year_tables, "ROOT", tmp_path)
    monkeypatch.setattr(year_tables.YearJob, "run", simulated)
    at_each = dict.fromkeys([13, 26, 39, 52], 6.0)
    monkeypatch.setattr(year_tables.YearJob, "retraining_at_each", lambda _: at_each)
    monkeypatch.setattr(year_tables, "run_parallel", lambda run, jobs, _: [run(j) for j in jobs])
    monkeypatch.setattr(year_tables, "write_document_table", lambda *_: None)
    monkeypatch.setattr(year_tables, "load_alarm", lambda _: saved[0] if saved else None)
    monkeypatch.setattr(year_tables.Alarm, "save", lambda alarm, _: saved.append(alarm))
    overrides = {"sweep.beyond": [3], "tuning.seeds": [10, 11]}
    year_tables.rebuild_year("tiny", overrides, ["at_once"])
    tuned_on = [(name, seed) for name in year_tables.CALIBRATES for seed in (10, 11)]
    assert len(tuned_on) == 6
    assert asked == [*tuned_on, ("at_once", 3)]
    # The signs are equal, so that their coefficients add up to gap over sign.
    assert sum(saved[0].coefficients.values()) == pytest.approx(1)
    rows = year_tables.rebuild_year("tiny", overrides, ["weekly"])
    assert asked[7:] == [("weekly", 3)]
    assert rows.groupby("policy").size().to_dict() == {"at_once": 4, "weekly": 4}
    assert rows.wear.to_list() == pytest.approx(rows.mean_gap.to_list())
    # Each profile has its own files.
    names = {path.name for path in (tmp_path / "figures").iterdir()}
    ends = (".csv", ".png", "_alarm.csv", "_alarm.png", "_calibration.csv")
    assert names == {f"year_tiny{end}" for end in ends}
    year_tables.rebuild_year("demo", overrides, ["at_once"])
    assert len(pd.read_csv(tmp_path / "figures" / "year.csv")) == 4


def test_a_year_trains_the_shadow_models_that_its_lira_needs(tmp_path, monkeypatch):
    monkeypatch.setattr(shadows, "SHADOWS", tmp_path / "shadows")
    changes = {"training.epochs": 1, "shadows.count": 4}
    alarm = Alarm(0.05, dict.fromkeys(SIGNS, 0.0))
    calibrating, job = (
        year_tables.YearJob("tiny", changes, 0, "at_once", tmp_path, each) for each in (None, alarm)
    )
    assert calibrating._study().shadows is None  # the alarm is fitted on gaps alone
    study = job._study()
    assert len(study.shadows.predictions) == 4
    assert not study.run.retrained_seeds()  # of the whole request: nobody would ask them


def test_what_retraining_at_each_letter_takes(study, letters, tmp_path):
    """By hand: before the second quarter ends, all three letters have come."""
    job = year_tables.YearJob("tiny", {}, 0, "at_once", tmp_path, None)
    patients = study.cohort.table.patient_id[study.cohort.table.split == "train"]
    gone, by_hand = [], []
    for letter in letters:
        gone += letter.patients
        by_hand.append(1 - patients.isin(gone).mean())
    object.__setattr__(job, "_letters", lambda _: letters)
    object.__setattr__(job, "_cohort", lambda _: study.cohort)
    found = job.retraining_at_each()
    assert list(found) == [13, 26, 39, 52]
    assert list(found.values()) == pytest.approx([by_hand[0], *[sum(by_hand)] * 3])


def test_what_policies_cost_at_another_rate():
    columns = dict.fromkeys(("trainings_of_references", "mean_gap", "exposure_days"), 0.0)
    rows = pd.DataFrame(
        [
            {"policy": "at_once", "trainings": 0.5, "unlearning": 0.5},
            {"policy": "monthly-quarterly", "trainings": 4.2, "unlearning": 0.2},
            {"policy": "retrain_at_once", "trainings": 26.0, "unlearning": 0.0},
            {"policy": "retrain_quarterly", "trainings": 4.0, "unlearning": 0.0},
        ]
    ).assign(seed=3, week=52, letters=26, **columns)
    # Twice as many letters: unlearning and retraining at each cost twice, a schedule as before.
    table = policy_costs(rows, 10, 3, 1)
    assert table.trainings.to_dict() == pytest.approx(
        {"at_once": 1, "retrain_quarterly": 4, "monthly-quarterly": 4.4, "retrain_at_once": 52}
    )
    assert table.cost["at_once"] == pytest.approx(30)
    assert table.index[0] == "at_once"
    assert not table.fits["retrain_quarterly"]  # waits a quarter
    assert not policy_costs(rows.assign(mean_gap=0.1), 10, 3, 1).fits.any()
    counted = rows[rows.policy != "retrain_at_once"].assign(**{AT_EACH: 26.0}, retrain_gap=0.03)
    each = policy_costs(counted, 10, 3, 1).loc["retrain_at_once"]
    assert each[["trainings", "cost", "wait", "gap"]].tolist() == [52, 1560, 0, 0.03]
    assert each.fits
    with pytest.raises(InputError, match="letters_a_week = 0: a positive"):
        policy_costs(rows, 10, 3, 0)


def test_a_quiet_year(study):
    table = year_of(study, [], "at_once").run()
    assert table.served.eq(0).all()
    assert table.trainings.eq(0).all()


def test_nothing_of_a_served_patient_is_in_the_new_references(study, letters):
    year = year_of(study, letters, "at_once-quarterly")
    year.run()
    gone = {study.run.hashed(p) for each in letters for p in each.patients}
    for saw in year._now.references.saw.values():
        assert not gone & saw
    assert Policy(retrain="quarterly") == POLICIES["at_once-quarterly"]


# ---- where wear comes from -----------------------------------------------------------------------


@pytest.fixture(scope="module")
def moved(study):
    settings = approach_settings("held_out_targets", "demo", epochs=1)
    return moves_of_requests(study, "held_out_targets", settings, 2), settings


def test_steps_of_requests_add_up_and_are_laid_out_by_part(study, moved):
    moves, _ = moved
    table = moves.table
    assert table.request.tolist() == [1, 2]
    assert table.moved[0] == pytest.approx(table.moved_so_far[0])
    a, b, both = (float(x) for x in (*table.moved, table.moved_so_far[1]))
    assert both**2 == pytest.approx(a**2 + b**2 + 2 * a * b * moves.cosines.loc[1, 2], rel=1e-4)
    assert moves.layers.sum(axis=1).tolist() == pytest.approx([1, 1])
    assert np.isnan(table.earlier[0])
    assert np.isfinite(table.earlier[1])
    assert table.target[0] == pytest.approx(table.first_target[0])
    assert set(moves.served) < set(study.request.patients)
    assert year_plots.moves(table, moves.cosines, moves.layers).axes


def test_targets_of_references_that_remember_are_seen(study):
    known = dict.fromkeys(study.references.checkpoints, study.original)
    now = replace(study, references=replace(study.references, checkpoints=known))
    found = target_margins(study, now, (), study.request)
    assert found["target"] > found["first_target"]


def test_a_variant_of_the_last_request_starts_from_the_same_model(study, moved):
    moves, settings = moved
    variants = {
        "as it is": ("held_out_targets", settings),
        "without labels": ("held_out_targets", replace(settings, labels=0.0)),
    }
    table = undone_by(study, moves, variants)
    assert list(table.index) == list(variants)
    assert list(table) == ["own", "earlier", "stay", "strangers"]
    assert not table.loc["as it is"].equals(table.loc["without labels"])
    again = undone_by(study, moves, {"as it is": variants["as it is"]})
    assert again.loc["as it is"].equals(table.loc["as it is"])
