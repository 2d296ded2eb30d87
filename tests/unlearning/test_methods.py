"""What holds for every unlearning method, and the mathematics of the baselines."""

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import TINY_MODEL, differs, two_references, weights

from forget_mi import unlearning
from forget_mi.config import build
from forget_mi.data.cohort import rows_of
from forget_mi.losses import classification_loss
from forget_mi.models import reinitialized
from forget_mi.training.config import DeviceConfig, TrainingConfig
from forget_mi.training.devices import make_accelerator
from forget_mi.training.loop import train_new
from forget_mi.training.prediction import predict
from forget_mi.unlearning import (
    bad_teacher,
    neg_grad,
    neg_grad_plus,
    random_labels,
    salun,
    scrub,
    ssd,
)
from forget_mi.unlearning.base import StepConfig, UnlearningData, UnlearningLog
from forget_mi.unlearning.layers import last_layers, reinitialize_last
from forget_mi.unlearning.samplers import forget_sampler, paired_sampler, retain_sampler

# As small as they can be; every setting of a method with settings.
CELLS = {
    "forget_mi-equal": {},
    "forget_mi-held_out": {},
    "held_out_targets": {},
    "fine_tune": {},
    "neg_grad": {},
    "neg_grad_plus": {},
    "scrub-last": {},
    "scrub-rewind": {},
    "cf_k": {"k": 1},
    "eu_k": {"k": 1},
    "multi_delete": {},
    "salun": {},
    "random_labels": {},
    "bad_teacher": {},
    "ssd": {"alpha": 1.0, "records": 20},
    "retrain": {"epochs": 1},
}


def unlearn(cell, original, data, accelerator, seed=0, **settings):
    name, _, setting = cell.partition("-")
    module = unlearning.get_method(name)
    quick = {"epochs": 1, "learning_rate": 1e-3} if hasattr(module.Config, "learning_rate") else {}
    values = {**quick, **({"setting": setting} if setting else {}), **CELLS[cell], **settings}
    config = build(module.Config, values, "unlearning")
    return module.unlearn(
        original[0], data, config, seed=seed, accelerator=accelerator, progress=False
    )


def test_no_method_is_left_out():
    assert {cell.partition("-")[0] for cell in CELLS} == set(unlearning.METHODS)


@pytest.fixture(scope="module")
def reports_only(cohort, request_10):
    """A trained text tower alone, with its tokenizer, and the data of the request without
    images."""
    cohort = replace(cohort, images=np.empty((len(cohort), 1, 0, 0), np.uint8))
    model, tokenizer, _ = train_new(
        cohort,
        rows_of(cohort, "train"),
        replace(TINY_MODEL, towers="text"),
        TrainingConfig(epochs=1, batch_size=16),
        seed=1,
        accelerator=make_accelerator(DeviceConfig(device="cpu")),
        progress=False,
    )
    data = UnlearningData.from_cohort(cohort, request_10, tokenizer, TINY_MODEL.max_tokens)
    return (model, tokenizer), two_references(cohort, *[(model, tokenizer)] * 2).teach(data, cohort)


@pytest.mark.parametrize("cell", CELLS)
def test_a_method_works_on_a_text_tower_alone(cell, reports_only, accelerator):
    original, data = reports_only
    unlearned, log = unlearn(cell, original, data, accelerator)
    assert differs(weights(original[0]), unlearned.state_dict())
    assert all(torch.isfinite(t).all() for t in unlearned.state_dict().values())
    seen = predict(unlearned, data.forget, accelerator)
    assert seen.towers == ("fused", "text")
    assert np.array_equal(seen.probabilities("fused"), seen.probabilities("text"))
    assert np.isfinite(log.epochs[-1].get("total", log.epochs[-1].get("train_loss", 0.0)))


@pytest.mark.parametrize("cell", CELLS)
def test_a_method_changes_a_copy_and_says_what_it_cost(
    cell, original, unlearning_data, accelerator
):
    before = weights(original[0])
    unlearned, log = unlearn(cell, original, unlearning_data, accelerator)
    assert not differs(before, original[0].state_dict())
    assert differs(before, unlearned.state_dict())
    assert all(torch.isfinite(t).all() for t in unlearned.state_dict().values())
    assert all(p.requires_grad for p in unlearned.parameters())
    assert log.seconds > 0
    assert log.work > 0
    assert log.stopped
    assert log.epochs[0]["epoch"] == 1


@pytest.mark.parametrize("cell", CELLS)
def test_a_method_gives_the_same_for_the_same_seed(cell, original, unlearning_data, accelerator):
    first, second = (
        weights(unlearn(cell, original, unlearning_data, accelerator, seed=3)[0]) for _ in range(2)
    )
    assert not differs(first, second)


@pytest.mark.parametrize("name", unlearning.METHODS)
def test_what_a_search_may_try_is_allowed(name):
    module = unlearning.get_method(name)
    for parameter, choice in module.SEARCH.items():
        for value in choice.values if hasattr(choice, "values") else (choice.low, choice.high):
            build(module.Config, {parameter: value}, "unlearning")


def loss_on(model, examples):
    with torch.no_grad():
        batch = examples.__getitems__(np.arange(len(examples)))
        output = model.eval()(batch["images"], batch["input_ids"], batch["attention_mask"])
        return classification_loss(output, batch["labels"]).item()


def test_ascent_climbs_and_descent_descends(original, unlearning_data, accelerator):
    def of(cell, side, **settings):
        model, _ = unlearn(cell, original, unlearning_data, accelerator, stop="never", **settings)
        return loss_on(model, getattr(unlearning_data, side))

    start = {
        side: loss_on(original[0], getattr(unlearning_data, side)) for side in ("forget", "retain")
    }
    assert of("neg_grad", "forget", epochs=3) > start["forget"]
    assert of("fine_tune", "retain", epochs=3) < start["retain"]
    assert of("neg_grad_plus", "forget", epochs=3, alpha=0.2) > start["forget"]
    assert of("neg_grad_plus", "retain", epochs=3, alpha=0.99) < start["retain"]


def test_neg_grad_plus_weighs_both_sides(original, unlearning_data, accelerator):
    _, log = unlearn(
        "neg_grad_plus", original, unlearning_data, accelerator, alpha=0.75, stop="never"
    )
    row = log.epochs[0]
    assert row["total"] == pytest.approx(0.75 * row["retain"] - 0.25 * row["forget"], rel=1e-5)


def test_a_fixed_stop_ends_the_ascent_at_the_strangers_loss(original, unlearning_data, accelerator):
    _, log = unlearn(
        "neg_grad", original, unlearning_data, accelerator, epochs=200, stop="validation"
    )
    assert log.stopped == "the forget loss reached the validation loss"
    assert len(log.epochs) < 200
    assert log.epochs[-1]["forget_loss"] >= log.epochs[-1]["validation_loss"]


def test_divergence_is_that_of_scipy(original, unlearning_data, accelerator):
    from scipy.special import softmax
    from scipy.stats import entropy

    from forget_mi.models.outputs import ModelOutput

    rng = np.random.default_rng(0)
    t, s = (
        ModelOutput(*(torch.tensor(rng.normal(size=(5, 3))) for _ in range(4))) for _ in range(2)
    )
    expected = sum(
        np.mean(
            [entropy(p, q) for p, q in zip(softmax(a / 4, -1), softmax(b / 4, -1), strict=True)]
        )
        for a, b in (
            (t.image_logits.numpy(), s.image_logits.numpy()),
            (t.text_logits.numpy(), s.text_logits.numpy()),
        )
    )
    assert scrub.towers_divergence(t, s, 4.0).item() == pytest.approx(16 * expected)


def test_scrub_visits_the_forget_set_in_the_first_epochs_only(
    original, unlearning_data, accelerator
):
    _, log = unlearn("scrub-last", original, unlearning_data, accelerator, epochs=3, max_epochs=2)
    assert ["forget_divergence" in row for row in log.epochs] == [True, True, False]


def test_scrub_rewinds_to_the_epoch_nearest_to_strangers(original, unlearning_data, accelerator):
    settings = {"epochs": 4, "max_epochs": 4, "learning_rate": 3e-3}
    rewound, log = unlearn("scrub-rewind", original, unlearning_data, accelerator, **settings)
    last, _ = unlearn("scrub-last", original, unlearning_data, accelerator, **settings)
    aim = scrub.fused_error(last, unlearning_data.validation, accelerator)
    distances = [abs(row["forget_error"] - aim) for row in log.epochs]
    here = abs(scrub.fused_error(rewound, unlearning_data.forget, accelerator) - aim)
    assert here == pytest.approx(min(distances))
    assert f"rewound to epoch {np.argmin(distances) + 1} of 4" == log.stopped


@pytest.mark.parametrize("cell", ["cf_k", "eu_k"])
def test_only_the_last_layers_change(cell, original, unlearning_data, accelerator):
    model, _ = unlearn(cell, original, unlearning_data, accelerator, batch_norm="train")
    free = {
        id(t) for layer in last_layers(model, 1) for t in layer.state_dict(keep_vars=True).values()
    }
    before = original[0].state_dict()
    changed = {name for name, t in model.state_dict().items() if not torch.equal(t, before[name])}
    allowed = {name for name, t in model.state_dict(keep_vars=True).items() if id(t) in free}
    assert changed
    assert changed <= allowed
    assert "image_tower.head.weight" in changed
    assert "text_tower.encoder.pooler.dense.weight" in changed


def test_new_layers_owe_nothing_to_the_old_ones(original):
    first, second = copy.deepcopy(original[0]), copy.deepcopy(original[0])
    with torch.no_grad():
        for layer in last_layers(second, 1):
            for parameter in layer.parameters():
                parameter += 1.0
    reinitialize_last(first, 1, seed=5)
    reinitialize_last(second, 1, seed=5)
    assert not differs(weights(first), second.state_dict())


def test_only_salient_weights_change(original, unlearning_data, accelerator):
    settings = salun.Config(salient=0.1)
    from forget_mi.unlearning.loop import frozen_and_trainable

    _, copy_of_it = frozen_and_trainable(original[0], accelerator)
    masks = salun.saliency_masks(
        copy_of_it, unlearning_data, settings, accelerator, UnlearningLog()
    )
    share = sum(m.sum().item() for m in masks.values()) / sum(m.numel() for m in masks.values())
    assert share == pytest.approx(0.1, abs=0.01)
    model, _ = unlearn("salun", original, unlearning_data, accelerator, salient=0.1)
    before = dict(original[0].named_parameters())
    moved = {name: p.detach() != before[name].detach() for name, p in model.named_parameters()}
    assert any(m.any() for m in moved.values())
    assert all(not (m & (masks[name] == 0)).any() for name, m in moved.items())


def test_wrong_labels_are_wrong_and_each_as_likely():
    labels = torch.arange(4).repeat(3000)
    wrong = random_labels.wrong_labels(labels, 4, seed=0)
    assert not (wrong == labels).any()
    counts = torch.stack(
        [(wrong[labels == c][:, None] == torch.arange(4)).sum(0) for c in range(4)]
    )
    np.testing.assert_allclose(counts.numpy(), 1000 * (1 - np.eye(4)), atol=120)
    assert torch.equal(wrong, random_labels.wrong_labels(labels, 4, seed=0))
    assert not torch.equal(wrong, random_labels.wrong_labels(labels, 4, seed=1))


def test_random_labels_teach_the_wrong_answer_and_keep_those_who_stay(
    original, unlearning_data, accelerator
):
    settings = {"epochs": 6, "learning_rate": 3e-3, "batch_norm": "frozen"}
    model, log = unlearn("random_labels", original, unlearning_data, accelerator, **settings)
    forget = unlearning_data.forget
    wrong = random_labels.wrong_labels(forget.labels, model.classes, seed=0)
    relabelled = replace(forget, labels=wrong)
    assert loss_on(model, relabelled) < loss_on(original[0], relabelled)
    n, m = len(forget), StepConfig().retain_batch
    _, log = unlearn("random_labels", original, unlearning_data, accelerator, batch_size=n)
    row = log.epochs[0]
    assert row["total"] == pytest.approx(
        (n * row["forget"] + m * row["retain"]) / (n + m), rel=1e-5
    )


def test_the_bad_teacher_is_untrained_and_the_student_follows_it(
    original, unlearning_data, accelerator
):
    """Nothing of the untrained teacher comes from F_og, and F_ul's answers on D_f move from F_og's
    to its."""
    forget = unlearning_data.forget
    settings = {"epochs": 8, "learning_rate": 3e-3, "batch_norm": "frozen", "stop": "never"}
    sure, _ = unlearn("fine_tune", original, unlearning_data, accelerator, **settings)
    model, _ = unlearn("bad_teacher", (sure,), unlearning_data, accelerator, **settings)

    def answers(m):
        return predict(m, forget, accelerator).probabilities("fused")

    untrained = answers(reinitialized(sure, 0))

    def divergence(p):
        return (untrained * np.log(untrained / p)).sum(1).mean()

    assert divergence(answers(model)) < 0.5 * divergence(answers(sure))


def test_the_first_step_of_bad_teacher_is_by_hand(original, unlearning_data, accelerator):
    """Before any step the student is F_og: nothing on D_r, KL(untrained || F_og) on D_f."""
    n, m = len(unlearning_data.forget), StepConfig().retain_batch
    _, log = unlearn(
        "bad_teacher", original, unlearning_data, accelerator, batch_size=n, batch_norm="frozen"
    )
    row = log.epochs[0]
    assert row["total"] == pytest.approx(
        (n * row["forget"] + m * row["retain"]) / (n + m), rel=1e-5
    )
    from scipy.stats import entropy

    teacher, student = (
        predict(each, unlearning_data.forget, accelerator)
        for each in (reinitialized(original[0], 0), original[0])
    )
    expected = sum(
        entropy(teacher.probabilities(t), student.probabilities(t), axis=1).mean()
        for t in ("image", "text")
    )
    assert row["forget"] == pytest.approx(expected, rel=0.2)  # the student has dropout
    assert row["retain"] < 0.2 * row["forget"]
    assert bad_teacher.Config().epochs == 1


def test_importance_is_the_mean_squared_gradient(original, unlearning_data, accelerator):
    import copy

    few = unlearning_data.forget.select([0, 1, 2])
    model = copy.deepcopy(original[0]).eval()
    found = ssd.importance(model, few, 1, accelerator)["image_tower.head.bias"]
    # The gradient of the cross-entropy by the bias is softmax - onehot.
    seen = predict(model, few, accelerator)
    by_hand = ((seen.probabilities("image") - np.eye(4)[seen.labels]) ** 2).mean(0)
    np.testing.assert_allclose(found.numpy(), by_hand, rtol=1e-4)


def test_ssd_dampens_and_never_amplifies(original, unlearning_data, accelerator):
    model, log = unlearn("ssd", original, unlearning_data, accelerator, dampening=0.5)
    before = dict(original[0].named_parameters())
    for name, p in model.named_parameters():
        assert (p.abs() <= before[name].abs() + 1e-12).all()
    assert 0 < log.epochs[0]["dampened_share"] < 1
    untouched, _ = unlearn("ssd", original, unlearning_data, accelerator, alpha=1e9)
    assert not differs(weights(original[0]), untouched.state_dict())


def test_neg_grad_is_the_gradient_of_the_negated_loss(original, unlearning_data, accelerator):
    """The first step of Adam moves each weight by the rate, here along the sign of the gradient:
    ascent."""
    settings = neg_grad.Config(
        epochs=1, batch_size=1000, learning_rate=1e-4, stop="never", clip=1e9
    )
    model, _ = neg_grad.unlearn(
        original[0], unlearning_data, settings, seed=0, accelerator=accelerator, progress=False
    )
    bias = "image_tower.head.bias"
    batch = unlearning_data.forget.__getitems__(np.arange(len(unlearning_data.forget)))
    reference = original[0].eval()
    output = reference(batch["images"], batch["input_ids"], batch["attention_mask"])
    (gradient,) = torch.autograd.grad(
        classification_loss(output, batch["labels"]), [dict(reference.named_parameters())[bias]]
    )
    moved = model.state_dict()[bias] - reference.state_dict()[bias]
    assert torch.equal(moved.sign(), gradient.sign())


def test_draws_cover_what_they_should(unlearning_data):
    data, rng = unlearning_data, np.random.default_rng(0)
    settings = StepConfig(batch_size=4, retain_batch=8)
    everyone = np.arange(len(data.forget)), np.arange(len(data.retain))

    def seen(draws):
        steps = draws(data, settings)(rng, 0)
        return steps, *(
            np.concatenate([getattr(step, side) for step in steps]) for side in ("forget", "retain")
        )

    steps, forget, retain = seen(paired_sampler)
    assert sorted(forget) == everyone[0].tolist()
    assert {len(step.retain) for step in steps} == {8}
    _, forget, retain = seen(forget_sampler)
    assert (sorted(forget), len(retain)) == (everyone[0].tolist(), 0)
    _, forget, retain = seen(retain_sampler)
    assert (len(forget), sorted(retain)) == (0, everyone[1].tolist())


def test_settings_of_one_method_are_not_another_ones():
    from forget_mi.errors import InputError

    with pytest.raises(InputError, match=r"unlearning\.alpha = 1\.5"):
        build(neg_grad_plus.Config, {"alpha": 1.5}, "unlearning")
    with pytest.raises(InputError, match=r"unknown parameter unlearning\.sigma"):
        build(scrub.Config, {"sigma": 0.1}, "unlearning")
