"""Unlearning that is none: the paper's measures pass it, the audit does not."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from forget_mi.attacks.registry import ATTACKS
from forget_mi.data.batches import make_examples
from forget_mi.data.cohort import rows_of
from forget_mi.data.cohorts import synthetic
from forget_mi.data.requests import draw_request
from forget_mi.data.splits import SplitConfig, split_by_patient
from forget_mi.evaluation import attack_rates as evaluate
from forget_mi.evaluation import planted_faults as planted
from forget_mi.evaluation import verdicts
from forget_mi.evaluation.audit import audit_model
from forget_mi.evaluation.config import AuditConfig
from forget_mi.evaluation.patient_scores import patient_tests
from forget_mi.evaluation.patient_test import FOUND
from forget_mi.evaluation.permutation import permutation_table
from forget_mi.evaluation.relearning import relearning_speed
from forget_mi.evaluation.roc import Roc
from forget_mi.evaluation.training_on import COMES_BACK, after_training_on, trained_on
from forget_mi.models.checkpoints import Checkpoint
from forget_mi.models.config import ModelConfig
from forget_mi.training.config import DeviceConfig, TrainingConfig
from forget_mi.training.devices import make_accelerator
from forget_mi.training.loop import train_new
from forget_mi.unlearning.base import UnlearningData

MODEL = ModelConfig(
    image_channels=(8, 16, 64),
    text_width=64,
    text_layers=1,
    text_heads=2,
    text_vocabulary=300,
    max_tokens=24,
)
SETTINGS = AuditConfig(draws=200)


class Study:
    """A model that has learned its patients by heart, and two that never saw those of the
    request."""

    def __init__(self):
        self.accelerator = make_accelerator(DeviceConfig(device="cpu"))
        settings = synthetic.SyntheticConfig(patients=150, image_size=32, images_per_patient=3)
        self.cohort = split_by_patient(
            synthetic.load(settings), SplitConfig(test=0.25, validation=0.25)
        )
        self.request = draw_request(self.cohort, 0.15, seed=0)
        everyone, stay = rows_of(self.cohort, "train"), self.request.retain_rows(self.cohort)
        self.models = {"original": self.train(everyone, 0)}
        self.models |= {f"retrained-{k}": self.train(stay, k) for k in (1, 2)}
        self.audits = {name: self.audit(name, model) for name, model in self.models.items()}
        original = self.models["original"]
        tokens = MODEL.max_tokens
        self.data = UnlearningData.from_cohort(
            self.cohort, self.request, original.tokenizer, tokens
        )

    def train(self, rows, seed) -> Checkpoint:
        settings = TrainingConfig(epochs=45, batch_size=32, learning_rate=3e-3, weight_decay=0.0)
        model, tokenizer, log = train_new(
            self.cohort,
            rows,
            MODEL,
            settings,
            seed=seed,
            accelerator=self.accelerator,
            progress=False,
        )
        method = "retrain" if seed else "original"
        return Checkpoint(
            model.eval(), tokenizer, {"method": method, "setting": "", "seconds": log.seconds}
        )

    def audit(self, name, checkpoint):
        return audit_model(name, checkpoint, self.cohort, self.request, SETTINGS, self.accelerator)

    def verdict(self, audit) -> tuple[str, pd.DataFrame]:
        original = self.audits["original"]
        evidence = {n: a.evidence(original) for n, a in {**self.audits, "it": audit}.items()}
        scores = {name: evaluate.all_scores(each) for name, each in evidence.items()}
        others = {n: scores[n] for n in ("retrained-1", "retrained-2")}
        patients = evaluate.patients_of(evidence["it"])
        table = verdicts.verdict_checks(
            scores["it"], others, patients, draws=200, level=0.95, seed=0
        )
        return verdicts.overall_verdict(table), table


@pytest.fixture(scope="module")
def study():
    return Study()


def passes_the_papers_measures(study, audit) -> bool:
    """At least .4 of the way from the original to the retrained models in SVC attack, forget AUC
    and forget F1 (the paper's own result goes .4, .6 and .9 of it), and no more than .05 of test
    AUC lost."""
    retrained = [study.audits[n] for n in ("retrained-1", "retrained-2")]

    def way(measure):
        start, end = (
            study.audits["original"].value(measure),
            np.mean([r.value(measure) for r in retrained]),
        )
        return (start - audit.value(measure)) / (start - end)

    held = (
        audit.value("test_auc")
        >= min(each.value("test_auc") for each in study.audits.values()) - 0.05
    )
    return held and all(way(measure) > 0.4 for measure in ("mia_svc", "forget_auc", "forget_f1"))


def test_the_original_is_caught_and_a_retrained_model_is_not(study):
    original = study.audits["original"]
    assert original.value("mia_svc") > 0.85
    assert not passes_the_papers_measures(study, original)
    assert study.verdict(original)[0] == verdicts.UNDER
    verdict, table = study.verdict(study.audits["retrained-1"])
    assert verdict == verdicts.SAME
    assert (table.gap.abs() < 0.25).all()


def test_an_edit_of_the_output_layer_alone_passes_the_papers_measures_and_fails_the_audit(study):
    original = study.models["original"]
    edited = planted.head_only_edit(
        original.model, study.data, seed=0, accelerator=study.accelerator
    )
    before, after = original.model.state_dict(), edited.state_dict()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == {f"{t}_tower.head.{p}" for t in ("image", "text") for p in ("weight", "bias")}
    audit = study.audit("edited", replace(original, model=edited))
    assert passes_the_papers_measures(study, audit)
    verdict, table = study.verdict(audit)
    assert verdicts.UNDER in verdict
    assert "linear_probe" in set(table.attack[table.verdict == verdicts.UNDER])


def test_flipped_predictions_pass_the_papers_measures_and_fail_the_audit(study):
    audit = planted.flip_predictions(study.audits["original"], SETTINGS, seed=0)
    assert passes_the_papers_measures(study, audit)
    labels = audit.predictions["forget"].labels
    assert (labels == study.audits["original"].predictions["forget"].labels).all()
    verdict, table = study.verdict(audit)
    assert verdict == verdicts.UNDER
    assert set(table.attack[table.verdict == verdicts.UNDER]) == {"linear_probe"}


def test_over_forgetting_is_called_so(study):
    """A model that is sure that the forgotten patients have another label."""
    original = study.audits["original"]
    forget = original.predictions["forget"]
    wrong = replace(
        forget,
        image_logits=np.roll(forget.image_logits, 1, axis=1),
        text_logits=np.roll(forget.text_logits, 1, axis=1),
    )
    verdict, table = study.verdict(
        replace(original, predictions={**original.predictions, "forget": wrong})
    )
    by_attack = (
        table[(table.tower == "fused") & (table.level == "sample")].set_index("attack").verdict
    )
    assert by_attack["loss"] == verdicts.OVER
    assert verdicts.OVER in verdict


def test_without_a_retrained_model_the_reference_is_a_half(study):
    original = study.audits["original"]
    scores = evaluate.all_scores(original.evidence(original))
    patients = evaluate.patients_of(original.evidence())
    table = verdicts.verdict_checks(scores, {}, patients, draws=100, level=0.95, seed=0)
    assert (table.reference == 0.5).all()
    assert "svc" not in set(table.attack)
    assert verdicts.overall_verdict(table) == verdicts.UNDER


def test_an_attack_that_the_retrained_models_lack_is_judged_against_a_half(study):
    found = {
        n: evaluate.all_scores(study.audits[n].evidence()) for n in ("original", "retrained-1")
    }
    alone = {**found["original"], ("u_lira", "fused"): found["original"]["loss", "fused"]}
    patients = evaluate.patients_of(study.audits["original"].evidence())
    table = verdicts.verdict_checks(
        alone, {"retrained-1": found["retrained-1"]}, patients, draws=100, level=0.95, seed=0
    )
    row = table[(table.attack == "u_lira") & (table.level == "sample")].iloc[0]
    assert (row.reference, row.verdict) == (0.5, verdicts.DISTINGUISHED)
    assert (table.reference[table.attack == "loss"] != 0.5).all()


def test_each_patient_of_the_original_is_found_and_of_a_retrained_model_few(study):
    original = patient_tests(study.audits["original"].evidence())
    assert original.verdict == FOUND
    assert original.found(0.05)["value"] > 0.9
    retrained = patient_tests(study.audits["retrained-1"].evidence())
    assert FOUND not in retrained.verdict
    assert retrained.found(0.05)["value"] < 0.2


def test_one_patient_left_untouched_comes_first(study):
    """The others are as under the retrained model."""
    known, gone = (study.audits[name].predictions["forget"] for name in ("original", "retrained-1"))
    audit, people, ranks, p = study.audits["retrained-1"], np.unique(known.patients), [], []
    for untouched in people:
        mine = (known.patients == untouched)[:, None]
        mixed = {
            name: np.where(mine, getattr(known, name), getattr(gone, name))
            for name in ("image_logits", "text_logits")
        }
        predictions = {**audit.predictions, "forget": replace(gone, **mixed)}
        found = patient_tests(replace(audit, predictions=predictions).evidence()).patients
        ranks.append(int(np.flatnonzero(found.patient == untouched)[0]))
        p.append(found.p_remembered[ranks[-1]])
    assert np.mean(np.array(ranks) == 0) > 0.7
    assert np.median(p) < 0.02
    assert len(people) > 10


def test_one_tower_that_was_not_forgotten_is_found(study):
    audit, known = study.audits["retrained-1"], study.audits["original"].predictions
    changed = {
        side: replace(
            audit.predictions[side],
            image_logits=known[side].image_logits,
            image_embedding=known[side].image_embedding,
        )
        for side in audit.predictions
    }
    assert patient_tests(replace(audit, predictions=changed).evidence()).verdict == FOUND


def test_a_model_that_answers_from_a_list_is_found_by_what_it_holds(study):
    flipped = planted.flip_predictions(study.audits["original"], SETTINGS, seed=0)
    found = patient_tests(flipped.evidence())
    assert found.verdict == FOUND
    by = {look for looks in found.patients.looks for look in looks.split(", ") if look}
    assert {look.split(" ")[0] for look in by} <= {"linear_probe"}


def test_what_is_hidden_comes_back_and_under_a_retrained_model_nothing_does(study):
    rows = {}
    for name in ("original", "retrained-1"):
        saved = study.models[name]
        sets = {
            side: make_examples(study.cohort, rows, saved.tokenizer, MODEL.max_tokens)
            for side, rows in study.audits[name].rows.items()
        }
        before = saved.model.state_dict()["image_tower.head.weight"].clone()
        settings = TrainingConfig(batch_size=32, learning_rate=3e-3, weight_decay=0.0)
        how = {"epochs": [0.25, 1], "seed": 0, "accelerator": study.accelerator}
        later = trained_on(saved.model, sets["retain"], settings, **how)
        rows[name], tests = after_training_on(saved.model, later, sets, study.accelerator)
        assert list(tests) == [0, 0.25, 1]
        assert torch.equal(saved.model.state_dict()["image_tower.head.weight"], before)
    assert [row["comes_back"] for row in rows["original"]] == [COMES_BACK] * 3
    assert COMES_BACK not in [row["comes_back"] for row in rows["retrained-1"]]
    assert rows["original"][2]["margin_forget"] != rows["original"][0]["margin_forget"]


def test_what_is_still_there_is_learned_again_faster(study):
    level = 0.7 * float(study.audits["original"].predictions["test"].cross_entropy("fused").mean())
    needed = {}
    for name, saved in study.models.items():
        sets = [
            make_examples(
                study.cohort, study.audits[name].rows[side], saved.tokenizer, MODEL.max_tokens
            )
            for side in ("forget", "test")
        ]
        needed[name], curves = relearning_speed(
            saved.model, *sets, level, passes=3, samples=3, seed=0, accelerator=study.accelerator
        )
        assert len(curves) == 4 * 4
        before = study.audits[name].predictions["forget"].cross_entropy("fused").mean()
        assert curves.loss[0] == pytest.approx(before, rel=1e-4)  # the model itself is left alone
    assert needed["original"]["forget"] == 0
    assert needed["original"]["strangers"] > 0
    assert needed["retrained-1"]["forget"] > 0


def test_permutations_tell_the_original_from_a_retrained_model_and_not_two_of_those(study):
    original = study.audits["original"]
    evidence = {name: a.evidence(original) for name, a in study.audits.items()}
    references = {n: evidence[n] for n in ("retrained-1", "retrained-2")}
    table = permutation_table(evidence["original"], references, "original")
    fused = table[table.tower == "fused"].set_index(["first", "second"])
    assert fused.p["original", "retrained-1"] < 0.01
    assert fused.p_beyond["original", "retrained-1"] < 0.01
    assert fused.p["retrained-1", "retrained-2"] > 0.01
    margins = verdicts.margin_checks(
        evidence["original"], references, draws=100, level=0.95, seed=0
    )
    assert (margins.verdict == verdicts.UNDER).all()


def test_the_probe_reads_embeddings_alone(study):
    original = study.audits["original"].evidence()
    silent = replace(
        original, forget=replace(original.forget, image_logits=0 * original.forget.image_logits)
    )
    probe = [ATTACKS["linear_probe"](e, "image") for e in (original, silent)]
    np.testing.assert_array_equal(probe[0].forget, probe[1].forget)
    assert Roc(*probe[0]).auc() > 0.8
