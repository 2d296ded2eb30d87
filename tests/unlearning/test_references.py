"""Reference models: whom each never saw, what they teach, and that they forget too."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import TINY_MODEL, differs, make_cohort, weights
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import entropy

from forget_mi.data.requests import Request
from forget_mi.errors import InputError
from forget_mi.models.outputs import Embeddings, ModelOutput
from forget_mi.training.config import ReferenceConfig
from forget_mi.training.prediction import predict
from forget_mi.training.references import assign_folds, rows_outside_fold
from forget_mi.unlearning import held_out_targets
from forget_mi.unlearning.base import StepConfig, UnlearningData, UnlearningLog
from forget_mi.unlearning.loop import set_learning_rate
from forget_mi.unlearning.references import reference_cohort, unlearn_references


def in_training(patients: int, seed: int):
    """A cohort of which everyone is in training; each patient has one to three images and mostly
    one label."""
    rng = np.random.default_rng(seed)
    label = np.concatenate([[0, 1] * 3, rng.integers(2, size=patients - 6)])
    images = np.repeat(np.arange(patients), rng.integers(1, 4, patients))
    cohort = make_cohort([f"p{i}" for i in images], label[images].tolist())
    return replace(cohort, table=cohort.table.assign(split="train")), label


# ---- folds ---------------------------------------------------------------------------------------


@settings(max_examples=40, deadline=None)
@given(st.integers(12, 40), st.integers(2, 3), st.integers(0, 99))
def test_every_patient_is_a_stranger_to_one_reference_and_classes_are_spread(patients, folds, seed):
    cohort, label = in_training(patients, seed)
    config = ReferenceConfig(folds=folds, seed=seed)
    found = assign_folds(cohort, config, {})
    assert set(found) == set(cohort.table.patient_id)
    assert found == assign_folds(cohort, config, {})
    trained = [
        set(cohort.table.patient_id.iloc[rows_outside_fold(cohort, found, k)]) for k in range(folds)
    ]
    for patient, fold in found.items():
        assert [patient in saw for saw in trained] == [k != fold for k in range(folds)]
    for which in (0, 1):
        sizes = np.bincount(
            [found[f"p{i}"] for i in np.flatnonzero(label == which)], minlength=folds
        )
        assert sizes.max() - sizes.min() <= 1


@settings(max_examples=20, deadline=None)
@given(st.integers(12, 40), st.integers(0, 99), st.integers(0, 1))
def test_a_lost_reference_is_made_again_for_those_who_are_left(patients, seed, lost):
    cohort, _ = in_training(patients, seed)
    config = ReferenceConfig(folds=2)
    before = assign_folds(cohort, config, {})
    gone = {"p1", "p4"}
    left = replace(
        cohort,
        table=cohort.table.assign(
            split=np.where(cohort.table.patient_id.isin(gone), "gone", "train")
        ),
    )
    there = config.names()[1 - lost]
    known = {there: [p for p, fold in before.items() if fold != 1 - lost and p not in gone]}
    again = assign_folds(left, config, known)
    assert again == {patient: fold for patient, fold in before.items() if patient not in gone}


def test_a_cohort_too_small_for_folds_is_refused():
    cohort = make_cohort(["a", "b", "c", "d"], [0, 0, 0, 1])
    cohort = replace(cohort, table=cohort.table.assign(split="train"))
    with pytest.raises(
        InputError,
        match=r"references\.folds = 2: cohort made has 1 training patient\(s\) of class 'yes'",
    ):
        assign_folds(cohort, ReferenceConfig(folds=2), {})
    # Two patients, but the label that makes up their mode hides that one fold lacks the other
    # class.
    cohort = make_cohort(["a", "a", "a", "b", "b", "c", "d", "d"], [0, 0, 1, 0, 0, 0, 0, 0])
    cohort = replace(
        cohort, classes=("no",), table=cohort.table.assign(label=[0] * 8, split="train")
    )
    assert set(assign_folds(cohort, ReferenceConfig(folds=2), {}).values()) == {0, 1}


def test_a_class_that_one_reference_would_lack_is_refused():
    # Both patients whose label is mostly 'yes' are known to the other reference alone.
    cohort = make_cohort(["a", "b", "c", "d"], [0, 0, 1, 1])
    cohort = replace(cohort, table=cohort.table.assign(split="train"))
    with pytest.raises(
        InputError, match="reference-1: no training example of class 'yes' is left without its fold"
    ):
        assign_folds(cohort, ReferenceConfig(folds=2), {"reference-1": ["a", "b"]})


# ---- teaching ------------------------------------------------------------------------------------


def test_targets_come_from_the_reference_that_never_saw_the_patient(
    unlearning_data, references, accelerator
):
    said = held_out_targets.held_out_outputs(unlearning_data, accelerator, UnlearningLog())
    seen = [predict(r.model, r.forget, accelerator) for r in unlearning_data.references]
    strangers = np.stack([r.stranger for r in unlearning_data.references])
    assert (strangers.sum(0) == 1).all()
    assert strangers.any(1).all()
    for reference, stranger, p in zip(unlearning_data.references, strangers, seen, strict=True):
        for patient in np.unique(unlearning_data.forget.patients.numpy()[stranger]):
            assert patient not in references.saw[reference.name]
        np.testing.assert_allclose(
            said.image_logits.numpy()[stranger], p.image_logits[stranger], atol=1e-5
        )
        np.testing.assert_allclose(
            said.text_logits.numpy()[stranger], p.text_logits[stranger], atol=1e-5
        )


def test_the_log_counts_what_the_references_read(unlearning_data, accelerator):
    log = UnlearningLog()
    held_out_targets.held_out_outputs(unlearning_data, accelerator, log)
    assert log.work == pytest.approx(len(unlearning_data.forget) / 3)


def test_a_patient_whom_every_reference_saw_is_refused_by_name(unlearning_data, references, cohort):
    everyone = frozenset(cohort.table.patient_id)
    spoiled = replace(
        references, saw=dict.fromkeys(references.saw, everyone), hashed=lambda p: f"p-{p}"
    )
    spoiled = replace(
        spoiled, saw=dict.fromkeys(references.saw, frozenset(f"p-{p}" for p in everyone))
    )
    with pytest.raises(InputError, match="reference-1 and reference-2: trained on patient p-S0"):
        spoiled.teach(unlearning_data, cohort)


def test_without_references_the_method_says_what_it_needs(unlearning_data, original, accelerator):
    bare = replace(unlearning_data, references=())
    with pytest.raises(InputError, match=r"parameter references\.folds = 0: .* at least 2 folds"):
        held_out_targets.unlearn(
            original[0],
            bare,
            held_out_targets.Config(epochs=1),
            seed=0,
            accelerator=accelerator,
            progress=False,
        )
    one = replace(unlearning_data, references=unlearning_data.references[:1])
    with pytest.raises(
        InputError, match=r"\d+ of \d+ records of the request have no reference model"
    ):
        held_out_targets.held_out_outputs(one, accelerator, UnlearningLog())


# ---- the loss ------------------------------------------------------------------------------------


def test_the_divergence_is_scipys_and_zero_at_the_target():
    rng = np.random.default_rng(0)
    a, b = (torch.from_numpy(rng.normal(size=(5, 4))) for _ in range(2))
    zero = torch.zeros(5, 0)
    # The text tower is where it should be: the direction of the divergence shows.
    output, target = ModelOutput(a, a, zero, zero), ModelOutput(b, a, zero, zero)
    p, q = a.softmax(-1).numpy(), b.softmax(-1).numpy()
    by_hand = entropy(q, p, axis=-1).mean()
    assert held_out_targets.divergence(output, target, 0.0).item() == pytest.approx(by_hand)
    centred = (a - a.mean(-1, keepdim=True)) - (b - b.mean(-1, keepdim=True))
    more = 0.5 * (centred**2).mean().item()
    assert held_out_targets.divergence(output, target, 0.5).item() == pytest.approx(by_hand + more)
    assert held_out_targets.divergence(output, output, 0.5).item() == pytest.approx(0, abs=1e-12)


def test_distances_of_embeddings_are_in_units_of_the_strangers_spread():
    rng = np.random.default_rng(0)
    strangers = torch.from_numpy(rng.normal(size=(50, 3)) * [1.0, 10.0, 1e-6])
    spread = held_out_targets.spread_of(strangers)
    own = strangers.numpy().std(0)
    assert spread[:2].numpy() == pytest.approx(own[:2])
    # A dimension that hardly moves counts as if it moved a little.
    assert spread[2].item() == pytest.approx(0.05 * np.sqrt((own**2).mean()))
    z, target = (Embeddings(torch.from_numpy(rng.normal(size=(4, 3))), torch.zeros(4, 0))
                 for _ in range(2))  # fmt: skip
    found = held_out_targets.spread_distance(z, target, Embeddings(spread, torch.zeros(0)))
    by_hand = (((z.image - target.image).numpy() / spread.numpy()) ** 2).mean()
    assert found.item() == pytest.approx(by_hand)


def test_embeddings_are_carried_by_the_map_that_validation_shows():
    rng = np.random.default_rng(0)
    turn = rng.normal(size=(4, 3))
    here = torch.from_numpy(rng.normal(size=(200, 4)))
    z = torch.from_numpy(rng.normal(size=(5, 4)))
    found = held_out_targets.carried(z, here, here @ turn + 2.0)
    assert found.numpy() == pytest.approx((z @ turn + 2.0).numpy(), abs=1e-2)


def test_a_forgotten_record_moves_to_a_strangers_place_among_the_embeddings(
    unlearning_data, original, accelerator
):
    log = UnlearningLog()
    model, validation = original[0], unlearning_data.validation
    strangers = held_out_targets.embeddings_of(model, validation, accelerator, log)
    spread = Embeddings(*map(held_out_targets.spread_of, strangers))
    target = held_out_targets.held_out_outputs(unlearning_data, accelerator, log, strangers)

    def left(weight: float) -> float:
        config = held_out_targets.Config(epochs=12, learning_rate=3e-3, embeddings=weight)
        unlearned, _ = held_out_targets.unlearn(
            model, unlearning_data, config, seed=0, accelerator=accelerator, progress=False
        )
        z = held_out_targets.embeddings_of(unlearned, unlearning_data.forget, accelerator, log)
        return held_out_targets.spread_distance(z, target.embeddings, spread).item()

    assert left(3.0) < 0.7 * left(0.0)


def test_a_forgotten_record_ends_nearer_to_what_a_stranger_says(
    unlearning_data, original, accelerator
):
    target = held_out_targets.held_out_outputs(unlearning_data, accelerator, UnlearningLog())
    config = held_out_targets.Config(epochs=12, learning_rate=3e-3, embeddings=0)

    def distance(model) -> float:
        batch = unlearning_data.forget.__getitems__(range(len(unlearning_data.forget)))
        with torch.no_grad():
            output = model.eval()(batch["images"], batch["input_ids"], batch["attention_mask"])
        return held_out_targets.divergence(output, target, 0.1).item()

    unlearned, log = held_out_targets.unlearn(
        original[0], unlearning_data, config, seed=0, accelerator=accelerator, progress=False
    )
    assert distance(unlearned) < 0.5 * distance(original[0])
    row = log.epochs[0]
    assert row["total"] == pytest.approx(
        row["forget"] + row["retain"] + config.labels * row["labels"], rel=1e-5
    )


def test_a_linear_schedule_rises_for_a_tenth_and_ends_at_zero():
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    rates = []
    for progress in (0.05, 0.1, 0.55, 1.0):
        set_learning_rate(optimizer, StepConfig(learning_rate=0.2, schedule="linear"), progress)
        rates.append(optimizer.param_groups[0]["lr"])
    assert rates == pytest.approx([0.1, 0.2, 0.1, 0.0])
    set_learning_rate(optimizer, StepConfig(learning_rate=0.2), 0.9)
    assert optimizer.param_groups[0]["lr"] == 0.2


def test_held_out_embeddings_lie_where_the_original_puts_strangers(
    unlearning_data, original, accelerator
):
    # A reference that is F_og itself has nothing to be carried over: the map is the identity, as
    # far as ridge goes.
    same = tuple(
        replace(
            r,
            model=original[0],
            forget=unlearning_data.forget,
            validation=unlearning_data.validation,
        )
        for r in unlearning_data.references
    )
    data = replace(unlearning_data, references=same)
    log = UnlearningLog()
    strangers = held_out_targets.embeddings_of(original[0], data.validation, accelerator, log)
    z = held_out_targets.held_out_outputs(data, accelerator, log, strangers).embeddings
    assert log.work > 0
    seen = predict(original[0], unlearning_data.forget, accelerator)
    for found, own in ((z.image, seen.image_embedding), (z.text, seen.text_embedding)):
        assert np.abs(found.numpy() - own).mean() < 0.2 * own.std(0).mean()


# ---- the references forget too -------------------------------------------------------------------


def test_each_reference_forgets_its_part_by_the_targets_of_the_other(
    references, cohort, request_10, accelerator
):
    config = held_out_targets.Config(epochs=1)
    before = {name: weights(saved.model) for name, saved in references.checkpoints.items()}
    forgot = unlearn_references(
        references, cohort, request_10, "held_out_targets", config, seed=0, accelerator=accelerator
    )
    for name, done in forgot.items():
        mine = set(request_10.patients) & references.saw[name]
        assert (done.log is not None) == bool(mine)
        assert differs(before[name], done.model.state_dict()) == bool(mine)
        assert not differs(before[name], references.checkpoints[name].model.state_dict())
    assert sum(done.log is not None for done in forgot.values()) >= 1


def test_a_reference_retains_only_what_it_was_trained_on(references, cohort):
    own = reference_cohort(references, "reference-1", cohort)
    train = set(own.table.patient_id[own.table.split == "train"])
    assert train == references.saw["reference-1"]
    assert (own.table.split == "validation").sum() == (cohort.table.split == "validation").sum()


def test_a_request_that_one_reference_never_saw_leaves_it_alone(references, cohort, accelerator):
    patient = sorted(references.saw["reference-1"])[0]
    config = held_out_targets.Config(epochs=1)
    forgot = unlearn_references(
        references,
        cohort,
        Request("one", (patient,)),
        "held_out_targets",
        config,
        seed=0,
        accelerator=accelerator,
    )
    assert forgot["reference-2"].log is None
    assert forgot["reference-2"].seconds == 0
    assert forgot["reference-2"].model is references.checkpoints["reference-2"].model
    assert forgot["reference-1"].log is not None


def test_the_judges_are_never_the_teachers():
    """Shadow models and references share no seed, and shadows are trained on the whole cohort's
    patients."""
    from forget_mi.runs.run import open_run
    from forget_mi.training import shadows

    taught = [
        s
        for seed in range(40)
        for s in open_run("tiny", overrides={"seed": seed}).reference_seeds().values()
    ]
    assert max(taught) < shadows.SEEDS


def test_data_without_references_is_as_before(cohort, request_10, original):
    data = UnlearningData.from_cohort(cohort, request_10, original[1], TINY_MODEL.max_tokens)
    assert data.references == ()


def test_a_small_request_takes_a_lower_rate_and_a_full_one_the_given():
    settings = held_out_targets.Config(learning_rate=1e-3, batch_size=8, full_steps=16)
    rates = {n: held_out_targets.rate_of(settings, n) for n in (1, 3, 32, 64, 128, 1000)}
    assert rates[1] == pytest.approx(1e-3 * (1 / 16) ** 0.5)  # one record, one step
    assert rates[3] == pytest.approx(1e-3 * (3 / 16) ** 0.5)  # a step a record, up to least_steps
    assert rates[32] == pytest.approx(1e-3 * (4 / 16) ** 0.5)
    assert rates[64] == pytest.approx(1e-3 * (8 / 16) ** 0.5)
    assert rates[128] == rates[1000] == 1e-3
