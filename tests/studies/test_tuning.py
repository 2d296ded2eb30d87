"""The rule by which hyper-parameters are chosen."""

import copy
import dataclasses
import types

import numpy as np
import pandas as pd
import pytest
from conftest import weights

from forget_mi.runs.params import TuningConfig
from forget_mi.studies import tuning
from forget_mi.studies.tuning import search, space_of
from forget_mi.studies.tuning_score import (
    TuningCase,
    TuningPredictions,
    score_terms,
    total_score,
    validation_member_rate,
    watched,
    with_training_on,
)
from forget_mi.training.config import DeviceConfig, TrainingConfig
from forget_mi.training.devices import make_accelerator
from forget_mi.training.prediction import Predictions
from forget_mi.unlearning import held_out_targets, neg_grad, scrub
from forget_mi.unlearning.base import StepConfig, UnlearningLog
from forget_mi.unlearning.search_space import LogUniform, OneOf, Whole


def predictions(logits, labels) -> Predictions:
    logits, labels = np.asarray(logits, np.float32), np.asarray(labels)
    empty = np.zeros((len(labels), 1), np.float32)
    return Predictions(logits, logits, empty, empty, labels, np.arange(len(labels)))


def certain(labels, strength) -> Predictions:
    return predictions(strength * np.eye(2)[labels], labels)


LABELS = np.tile([0, 1], 40)
MEMBER = certain(LABELS, 9.0)


def stranger(seed: int) -> Predictions:
    rng = np.random.default_rng(seed)
    return predictions(rng.normal(size=(80, 2)), LABELS)


def wrong(strength: float) -> Predictions:
    return dataclasses.replace(certain(1 - LABELS, strength), labels=LABELS)


ORIGINAL = TuningPredictions(forget=MEMBER, validation=stranger(0), stay=MEMBER, stayers=800)


def test_a_model_to_which_the_forgotten_are_strangers_scores_near_zero():
    terms = score_terms(
        ORIGINAL,
        TuningPredictions(forget=stranger(0), validation=stranger(0), stay=MEMBER, stayers=800),
    )
    exact = {name: value for name, value in terms.items() if name != "member_calls"}
    assert all(value == pytest.approx(0, abs=1e-12) for value in exact.values())
    assert terms["member_calls"] < 0.15


def test_the_original_is_scored_as_remembering():
    terms = score_terms(ORIGINAL, ORIGINAL)
    assert terms["member_calls"] > 0.6
    assert terms["attack"] > 0.4
    assert terms["forget_auc"] > 0.3
    assert (terms["lost_auc"], terms["lost_f1"], terms["stay"]) == (0, 0, 0)


def test_what_is_lost_on_validation_counts_and_what_is_gained_does_not():
    good = dataclasses.replace(ORIGINAL, validation=certain(LABELS, 2.0))
    bad = dataclasses.replace(ORIGINAL, validation=wrong(2.0))
    lost, gained = score_terms(good, bad), score_terms(bad, good)
    assert (lost["lost_auc"], lost["lost_f1"]) == (1, 1)
    assert (gained["lost_auc"], gained["lost_f1"]) == (0, 0)


def test_forgetting_too_well_is_not_rewarded():
    over = score_terms(ORIGINAL, dataclasses.replace(ORIGINAL, forget=wrong(4.0)))
    assert over["attack"] > 0.3
    assert over["forget_auc"] > 0.3
    assert over["member_calls"] > 0.05


def test_disturbing_those_who_stay_is_punished():
    """A model to which everyone has become a stranger has forgotten the request, and the rest with
    it."""
    terms = score_terms(
        ORIGINAL, TuningPredictions(stranger(1), stranger(0), stranger(2), stayers=800)
    )
    assert terms["stay"] > 0.3
    assert terms["member_calls"] > 0.5, "the attack then calls everyone a member"


def test_strangers_are_judged_by_an_attack_that_has_not_seen_them():
    assert 0.05 < validation_member_rate(ORIGINAL) < 0.5
    same_patient = dataclasses.replace(stranger(0), patients=np.zeros(80, int))
    assert 0 <= validation_member_rate(dataclasses.replace(ORIGINAL, validation=same_patient)) <= 1


def test_the_watched_patients_are_whole_and_some_of_those_who_stay(unlearning_data):
    stay, everyone = watched(unlearning_data, 0.2, seed=1), unlearning_data.retain
    chosen = set(stay.patients.tolist())
    assert len(chosen) == round(0.2 * len(set(everyone.patients.tolist())))
    theirs = [p in chosen for p in everyone.patients.tolist()]
    assert stay.rows.tolist() == everyone.rows[theirs].tolist()


def test_what_comes_back_once_the_model_is_trained_on_counts(original, case):
    accelerator = make_accelerator(DeviceConfig(device="cpu"))
    before = TuningPredictions.of_model(original[0], case, accelerator)
    assert "comes_back" not in score_terms(before, before)
    trained = dataclasses.replace(case, training=TrainingConfig(epochs=1))
    later = with_training_on(before, original[0], trained, accelerator)
    terms = score_terms(before, later)
    assert terms["comes_back"] >= 0
    today = {name: value for name, value in terms.items() if name != "comes_back"}
    score = (np.mean(list(today.values())) + terms["comes_back"]) / 2
    assert total_score(terms) == pytest.approx(score)


def test_what_is_found_later_counts_whether_it_came_back_or_was_there_all_along():
    """Little rises where little was forgotten: the rise alone would reward that."""
    later = {"later_forget": MEMBER, "later_validation": stranger(0)}
    hidden = dataclasses.replace(ORIGINAL, forget=stranger(0), **later)
    kept = dataclasses.replace(ORIGINAL, **later)
    assert score_terms(ORIGINAL, hidden)["comes_back"] > 0.3
    assert score_terms(ORIGINAL, kept)["comes_back"] == score_terms(ORIGINAL, hidden)["comes_back"]
    later = {"later_forget": stranger(0), "later_validation": stranger(0)}
    gone = dataclasses.replace(ORIGINAL, forget=stranger(0), **later)
    assert score_terms(ORIGINAL, gone)["comes_back"] == pytest.approx(0, abs=1e-12)
    below = dataclasses.replace(gone, later_forget=wrong(4.0))
    assert score_terms(ORIGINAL, below)["comes_back"] == 0


def test_what_the_embeddings_still_know_counts_though_no_answer_tells():
    """The answers are a stranger's; the embeddings have those who stay and the forgotten on one
    side."""

    def placed(who: Predictions, side: float, seed: int) -> Predictions:
        rng = np.random.default_rng(seed)
        where = (side + rng.normal(size=(len(who), 3))).astype(np.float32)
        return dataclasses.replace(who, image_embedding=where, text_embedding=where)

    stay, strangers = placed(MEMBER, 2.0, 0), placed(stranger(0), -2.0, 1)
    known = TuningPredictions(placed(stranger(0), 2.0, 2), strangers, stay, stayers=800)
    gone = TuningPredictions(placed(stranger(0), -2.0, 2), strangers, stay, stayers=800)
    assert score_terms(known, known)["probe"] > 0.4
    assert score_terms(gone, gone)["probe"] < 0.1
    rest = [{k: v for k, v in score_terms(s, s).items() if k != "probe"} for s in (known, gone)]
    assert rest[0] == rest[1]


def test_a_model_that_blew_up_is_no_result(original, case):
    """Its weights may still be finite, and so may the loss of its last step."""
    import copy

    import torch

    model = copy.deepcopy(original[0])
    with torch.no_grad():
        model.image_tower.bn1.weight.fill_(3e38)
    accelerator = make_accelerator(DeviceConfig(device="cpu"))
    with pytest.raises(FloatingPointError, match="outputs are not finite"):
        TuningPredictions.of_model(model, case, accelerator)


def test_those_who_are_watched_need_not_have_every_class():
    """A tenth of few patients may lack one."""
    some = MEMBER.select(np.flatnonzero(MEMBER.labels == 0))
    seen = dataclasses.replace(ORIGINAL, stay=some)
    assert 0 <= score_terms(seen, seen)["probe"] <= 0.5


@pytest.fixture
def case(original, unlearning_data):
    work = len(unlearning_data.retain) * 20
    stay = watched(unlearning_data, 0.1, seed=0)
    return TuningCase("one", original[0], unlearning_data, stay, seed=3, retraining_work=work)


def stub(monkeypatch, cost=1.0):
    """A method whose score and cost depend on its settings alone; counts its calls."""
    calls = []

    class Settings(StepConfig):
        pass

    def unlearn(model, data, settings, *, seed, accelerator, progress):
        calls.append(settings)
        return settings, UnlearningLog(work=cost * settings.epochs)

    search_space = {
        "learning_rate": LogUniform(1e-4, 1e-1),
        "epochs": Whole(1, 9),
        "batch_size": OneOf((4, 8)),
    }
    module = types.SimpleNamespace(Config=StepConfig, SEARCH=search_space, unlearn=unlearn)
    monkeypatch.setattr(tuning, "get_method", lambda name: module)
    monkeypatch.setattr(tuning, "code_fingerprint", lambda *names: "code")

    def seen_by(model, data, accelerator):
        return model

    def terms(before, after):
        return {"distance": abs(np.log10(after.learning_rate) + 2) + 0.01 * after.epochs}

    monkeypatch.setattr(tuning.TuningPredictions, "of_model", staticmethod(seen_by))
    monkeypatch.setattr(tuning, "score_terms", terms)
    return calls


SETTINGS = TuningConfig(trials=12, seeds=(10,), fractions=(0.1,), budget=1.0, patience=4)


def test_a_search_finds_what_scores_best(case, monkeypatch):
    calls = stub(monkeypatch)
    best, trials = search("made", {}, [case], SETTINGS, make_accelerator(), progress=False)
    assert len(calls) == len(trials) == 12
    assert trials.score.idxmin() == trials.chosen.idxmax()
    assert best["learning_rate"] == trials.learning_rate[trials.chosen].item()
    assert trials.learning_rate[0] == StepConfig().learning_rate, (
        "the first trial takes the defaults"
    )
    assert trials.score.min() < trials.score[0]


def test_the_second_trial_takes_what_start_names_within_the_range(case, monkeypatch):
    stub(monkeypatch)
    settings = dataclasses.replace(SETTINGS, start="elsewhere")
    asked = []

    def known(section):
        asked.append(section)
        return "made", {"learning_rate": 0.02, "epochs": 1000, "batch_size": 3}

    monkeypatch.setattr(tuning, "unlearning_values", known)
    _, trials = search("made", {}, [case], settings, make_accelerator(), progress=False)
    space = tuning.get_method("made").SEARCH
    assert asked == [{"method": "made", "tuned": "elsewhere"}]
    assert trials.learning_rate[0] == StepConfig().learning_rate
    assert trials.learning_rate[1] == 0.02
    assert trials.epochs[1] == space["epochs"].high
    monkeypatch.setattr(tuning, "unlearning_values", lambda section: ("made", {}))
    _, without = search("made", {}, [case], settings, make_accelerator(), progress=False)
    _, plain = search("made", {}, [case], SETTINGS, make_accelerator(), progress=False)
    pd.testing.assert_frame_equal(without, plain)


def test_rates_and_passes_are_searched_in_proportion_to_those_of_training(case):
    def space(method, **training):
        trained = dataclasses.replace(case, training=TrainingConfig(**training))
        return space_of(method, {}, trained)

    as_written = space("scrub", epochs=30, learning_rate=1e-3)
    assert as_written == scrub.SEARCH == space_of("scrub", {}, case)
    short = space("scrub", epochs=4, learning_rate=3e-4)
    assert short["learning_rate"] == LogUniform(5e-5 * 0.3, 2e-3 * 0.3)
    assert short["epochs"] == short["max_epochs"] == Whole(1, 1)
    assert short["alpha"] == as_written["alpha"]
    assert short["batch_norm"] == as_written["batch_norm"]
    few = space("held_out_targets", epochs=4, learning_rate=1e-3)
    assert few["epochs"] == OneOf((1, 2))
    assert few["retain_batch"] == held_out_targets.SEARCH["retain_batch"]
    assert space("forget_mi", epochs=4)["epochs"] == Whole(2, 4)
    assert "epochs" not in space_of("forget_mi", {"epochs": 3}, case)


def test_pretrained_towers_are_searched_with_rewinding_and_others_without(case):
    model = copy.deepcopy(case.original)
    model.settings = dataclasses.replace(model.settings, text_pretrained="folder")
    pretrained = dataclasses.replace(case, original=model)
    assert 0.0 in space_of("fine_tune", {}, pretrained)["rewind"].values
    assert "rewind" not in space_of("fine_tune", {}, case)
    assert "rewind" not in space_of("ssd", {}, pretrained), "takes no steps"


def test_a_trial_over_the_budget_is_never_chosen(case, monkeypatch):
    stub(monkeypatch, cost=case.retraining_work / 5)
    best, trials = search("made", {}, [case], SETTINGS, make_accelerator(), progress=False)
    over = trials.epochs > 5
    assert over.any()
    assert trials[over].score.isna().all()
    assert trials[over].ended.str.startswith("costs").all()
    assert best["epochs"] <= 5
    stub(monkeypatch, cost=case.retraining_work * 2)
    with pytest.raises(RuntimeError, match=r"no trial stayed within 1\.0 of retraining"):
        search("made", {}, [case], SETTINGS, make_accelerator(), progress=False)


def test_a_search_that_was_killed_goes_on_as_if_nothing_had_happened(case, monkeypatch, tmp_path):
    stub(monkeypatch)
    whole_best, whole = search("made", {}, [case], SETTINGS, make_accelerator(), progress=False)
    calls = stub(monkeypatch)
    real, left = tuning.get_method("made").unlearn, iter(range(5))

    def killed(*arguments, **named):
        if next(left, None) is None:
            raise KeyboardInterrupt
        return real(*arguments, **named)

    tuning.get_method("made").unlearn = killed
    with pytest.raises(KeyboardInterrupt):
        search("made", {}, [case], SETTINGS, make_accelerator(), folder=tmp_path, progress=False)
    tuning.get_method("made").unlearn = real
    best, trials = search(
        "made", {}, [case], SETTINGS, make_accelerator(), folder=tmp_path, progress=False
    )
    finished = trials[trials.ended != "interrupted"]
    assert len(calls) == 12
    assert best == whole_best
    assert finished.score.tolist() == whole.score.tolist()
    again, _ = search(
        "made", {}, [case], SETTINGS, make_accelerator(), folder=tmp_path, progress=False
    )
    assert (again, len(calls)) == (whole_best, 12), "a finished search is read"


def test_a_real_method_is_searched_and_the_original_left_alone(case, monkeypatch):
    before = weights(case.original)
    settings = TuningConfig(trials=2, seeds=(10,), fractions=(0.1,), budget=1.0)
    best, trials = search(
        "neg_grad", {"batch_norm": "frozen"}, [case], settings, make_accelerator(), progress=False
    )
    assert neg_grad.Config(**best).batch_norm == "frozen"
    assert all(
        (case.original.state_dict()[name] == tensor).all() for name, tensor in before.items()
    )
    assert trials.share.notna().all()
