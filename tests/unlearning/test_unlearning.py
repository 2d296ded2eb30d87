import copy
import dataclasses

import numpy as np
import pytest
import torch
from conftest import TINY_MODEL, differs, weights

from forget_mi import unlearning
from forget_mi.config import build
from forget_mi.data import to_device_ahead
from forget_mi.errors import InputError
from forget_mi.losses import classification_loss, ranking_loss
from forget_mi.training.prediction import predict
from forget_mi.unlearning import forget_mi, loop, teacher_outputs
from forget_mi.unlearning.base import UnlearningData, UnlearningLog
from forget_mi.unlearning.forget_mi import SETTINGS, Config, noisy_copies
from forget_mi.unlearning.loop import UnlearningLoop, forward_step, joined_batch
from forget_mi.unlearning.samplers import StepIndices, sample_in_rounds
from forget_mi.unlearning.teacher_outputs import TeacherOutputs

SETTINGS_TO_TRY = {
    "sigma": 0.5,
    "epochs": 2,
    "batch_size": 4,
    "learning_rate": 1e-3,
    "stop": "never",
}


def unlearn(original, data, accelerator, seed=0, **settings):
    config = Config(**{**SETTINGS_TO_TRY, **settings})
    return forget_mi.unlearn(
        original[0], data, config, seed=seed, accelerator=accelerator, progress=False
    )


def test_the_loss_of_training_has_the_weight_that_the_original_was_trained_with(
    original, unlearning_data, accelerator
):
    model = copy.deepcopy(original[0])
    model.settings = dataclasses.replace(model.settings, ranking=0.25)
    loop = UnlearningLoop(
        model, unlearning_data, Config(), seed=0, accelerator=accelerator, progress=False
    )
    index = torch.arange(5)
    batch = joined_batch(unlearning_data, StepIndices(index[:0], index))
    (batch,) = to_device_ahead([batch], accelerator)
    _, part = forward_step(loop.unlearned.eval(), batch, 0)
    apart = classification_loss(part.output, part.batch["labels"])
    ranked = ranking_loss(part.output.embeddings, part.batch["labels"], part.batch["studies"])
    assert loop.training_loss(part).item() == pytest.approx((apart + ranked / 4).item())


def test_a_method_is_found_by_name():
    assert unlearning.get_method("forget_mi") is forget_mi
    with pytest.raises(InputError, match=r"unlearning\.method = 'magic': allowed are forget_mi"):
        unlearning.get_method("magic")


def test_a_method_sees_no_test_set_and_no_retrained_model(cohort, request_10, unlearning_data):
    names = {field.name for field in dataclasses.fields(UnlearningData)}
    own = {"forget", "retain", "validation", "forget_reports", "tokenizer", "max_tokens"}
    assert names == own | {"references"}
    sets = [getattr(unlearning_data, name) for name in ("forget", "retain", "validation")]
    sets += [
        examples
        for each in unlearning_data.references
        for examples in (each.forget, each.validation)
    ]
    seen = {int(row) for examples in sets for row in examples.rows}
    assert not seen & set(np.flatnonzero(cohort.table.split == "test"))
    assert set(unlearning_data.forget.rows.tolist()) == set(request_10.forget_rows(cohort).tolist())


@pytest.mark.parametrize("setting", SETTINGS)
def test_every_setting_moves_the_model_and_leaves_the_original(
    original, unlearning_data, accelerator, setting
):
    before = weights(original[0])
    unlearned, log = unlearn(original, unlearning_data, accelerator, setting=setting)
    assert not differs(before, original[0].state_dict())
    assert differs(before, unlearned.state_dict())
    assert set(log.epochs[0]) == {
        "epoch",
        "uu",
        "ur",
        "mu",
        "mr",
        "total",
        "forget_loss",
    }  # nothing was asked of D_v
    assert all(np.isfinite(list(row.values())).all() for row in log.epochs)
    assert log.seconds > 0
    assert log.stopped == "all epochs were run"


def test_same_seed_same_result(original, unlearning_data, accelerator):
    first, second, other = (
        unlearn(original, unlearning_data, accelerator, seed=s)[0] for s in (1, 1, 2)
    )
    assert not differs(weights(first), weights(second))
    assert differs(weights(first), weights(other))


def test_forgetting_pulls_towards_the_noisy_targets(original, unlearning_data, accelerator):
    _, log = unlearn(original, unlearning_data, accelerator, epochs=40)
    assert log.epochs[-1]["uu"] < 0.7 * log.epochs[0]["uu"]
    assert log.epochs[-1]["mu"] < log.epochs[0]["mu"]


def test_no_noise_leaves_the_zero_gradient_and_stays_bounded(
    original, unlearning_data, accelerator
):
    _, log = unlearn(
        original, unlearning_data, accelerator, setting="no_noise", epochs=20, margin=2.0
    )
    assert log.epochs[-1]["uu"] < log.epochs[0]["uu"] <= 2.0
    unlearned, _ = unlearn(
        original, unlearning_data, accelerator, setting="no_noise", epochs=60, margin=2.0
    )
    moved = predict(unlearned, unlearning_data.forget, accelerator).image_embedding
    start = predict(original[0], unlearning_data.forget, accelerator).image_embedding
    assert np.linalg.norm(moved - start, axis=1).max() < 10


def test_teacher_outputs_are_computed_once_and_only_where_needed(
    original, unlearning_data, accelerator, monkeypatch
):
    seen = []
    real = teacher_outputs.predict

    def counting(model, examples, accelerator):
        seen.extend(examples.rows.tolist())
        return real(model, examples, accelerator)

    monkeypatch.setattr(teacher_outputs, "predict", counting)
    cache = TeacherOutputs(original[0], unlearning_data.retain, accelerator, UnlearningLog())
    for index in ([3, 1], [1, 5, 3], [5]):
        cache.compute(np.array(index))
    assert len(seen) == len(set(seen)) == 3
    expected = real(original[0], unlearning_data.retain.select([5, 1]), accelerator)
    assert len(cache._values.text_logits) == 3  # and nothing is held for the others
    z = cache.at(torch.tensor([5, 1]))
    for name in z._fields:
        np.testing.assert_allclose(
            getattr(z, name).numpy(), getattr(expected, name), rtol=1e-4, atol=1e-5
        )


def test_the_original_is_not_asked_in_the_loop(original, unlearning_data, accelerator, monkeypatch):
    """However many passes are made, F_og computes each record's embeddings at most once."""
    asked = []
    real = teacher_outputs.predict

    def counting(model, examples, accelerator):
        if not any(p.requires_grad for p in model.parameters()):
            asked.extend(examples.rows.tolist())
        return real(model, examples, accelerator)

    monkeypatch.setattr(teacher_outputs, "predict", counting)
    unlearn(original, unlearning_data, accelerator, epochs=20, retain_batch=8)
    forget = set(unlearning_data.forget.rows.tolist())
    retain = set(unlearning_data.retain.rows.tolist())
    assert sorted(r for r in asked if r in forget) == sorted(forget)  # their noisy copies
    assert len([r for r in asked if r in retain]) == len({r for r in asked if r in retain})


def test_it_stops_when_the_forget_loss_reaches_the_validation_loss(
    original, unlearning_data, accelerator, monkeypatch
):
    measured = iter([0.5, 0.3, 0.49, 0.51])  # of F_og on D_v, then of F_ul on D_f after each pass
    asked = []

    def scripted(model, examples, accelerator):
        asked.append(examples)
        return next(measured)

    monkeypatch.setattr(loop, "fused_loss", scripted)
    _, log = unlearn(original, unlearning_data, accelerator, epochs=20, stop="validation")
    assert log.stopped == "the forget loss reached the validation loss"
    assert [row["forget_loss"] for row in log.epochs] == [0.3, 0.49, 0.51]
    assert {row["validation_loss"] for row in log.epochs} == {0.5}
    assert [len(examples) for examples in asked] == [len(unlearning_data.validation)] + [
        len(unlearning_data.forget)
    ] * 3


def test_far_from_the_bar_the_forget_loss_costs_no_pass(
    original, unlearning_data, accelerator, monkeypatch
):
    monkeypatch.setattr(loop, "fused_loss", lambda model, examples, accelerator: 100.0)
    _, log = unlearn(
        original, unlearning_data, accelerator, epochs=1, stop="validation", learning_rate=1e-9
    )
    truth = predict(original[0], unlearning_data.forget, accelerator).cross_entropy("fused").mean()
    assert log.epochs[0]["forget_loss"] == pytest.approx(truth, rel=1e-3)


def test_frozen_batch_norm_keeps_the_originals_statistics(original, unlearning_data, accelerator):
    before = original[0].state_dict()["image_tower.bn1.running_mean"]
    frozen, _ = unlearn(original, unlearning_data, accelerator, batch_norm="frozen")
    moving, _ = unlearn(original, unlearning_data, accelerator, batch_norm="train")
    assert torch.equal(before, frozen.state_dict()["image_tower.bn1.running_mean"])
    assert not torch.equal(before, moving.state_dict()["image_tower.bn1.running_mean"])


def test_noisy_copies_are_noisy_in_both_modalities(unlearning_data):
    noisy = noisy_copies(unlearning_data, Config(sigma=0.2, text_noise=0.5), seed=0)
    again = noisy_copies(unlearning_data, Config(sigma=0.2, text_noise=0.5), seed=0)
    assert np.array_equal(noisy.images, again.images)
    difference = noisy.images.astype(float) - unlearning_data.forget.images
    assert 10 < difference.std() < 0.2 * 255
    assert noisy.input_ids.shape != unlearning_data.forget.input_ids.shape or not torch.equal(
        noisy.input_ids, unlearning_data.forget.input_ids
    )
    assert torch.equal(noisy.labels, unlearning_data.forget.labels)


def test_records_come_without_repetition_until_all_were_drawn():
    rng = np.random.default_rng(0)
    assert len(set(sample_in_rounds(rng, 10, 7))) == 7
    drawn = sample_in_rounds(rng, 10, 25)
    assert len(drawn) == 25
    assert np.bincount(drawn, minlength=10).min() >= 2


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"setting": "loud"}, r"unlearning\.setting = 'loud'.*'equal'"),
        ({"text_noise": 1.5}, r"unlearning\.text_noise = 1\.5"),
        ({"epochs": 0}, r"unlearning\.epochs = 0"),
        (
            {"sigmma": 0.1},
            r"unknown parameter unlearning\.sigmma = 0\.1; allowed are epochs.*sigma",
        ),
        ({"learning_rate": "fast"}, r"unlearning\.learning_rate = 'fast'"),
    ],
)
def test_impossible_settings_stop(values, message):
    with pytest.raises(InputError, match=message):
        build(Config, values, "unlearning")


def test_a_model_keeps_its_settings(original):
    assert original[0].settings == TINY_MODEL
