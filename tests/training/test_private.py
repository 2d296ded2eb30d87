"""Training with differential privacy by patient."""

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import TINY_MODEL

from forget_mi.data.batches import make_examples
from forget_mi.data.cohort import rows_of
from forget_mi.errors import InputError
from forget_mi.models.build import build_model
from forget_mi.models.checkpoints import load_checkpoint, save_checkpoint
from forget_mi.models.tokenizers import vocabulary_size
from forget_mi.training import private
from forget_mi.training.private import PrivacyConfig, plan, record_losses, steps_of, train_private

pytest.importorskip("opacus")
GROUPS = replace(TINY_MODEL, image_norm="group")


@pytest.fixture
def parts(cohort, original):
    """A model without batch normalisation, training and validation examples."""
    tokenizer = original[1]
    model = build_model(GROUPS, len(cohort.classes), vocabulary_size(tokenizer), seed=0)
    return model, *(
        make_examples(cohort, rows_of(cohort, part), tokenizer, model.max_tokens)
        for part in ("train", "validation")
    )


def test_the_accountant_says_what_opacus_says():
    from opacus.accountants import RDPAccountant

    found = plan(280, PrivacyConfig(epsilon=3, patients=28, epochs=30))
    assert (found.rate, found.steps, found.delta) == (0.1, 300, 1 / 280)
    accountant = RDPAccountant()
    for _ in range(300):
        accountant.step(noise_multiplier=found.noise, sample_rate=0.1)
    assert found.epsilon == pytest.approx(accountant.get_epsilon(1 / 280))
    assert 2.9 < found.epsilon <= 3


def test_the_noise_is_that_of_the_gaussian_mechanism():
    """With everybody in each step, T steps of noise s are one of s / sqrt(T); Renyi's divergence of
    order a between N(0, s^2) and N(1, s^2) is a / (2 s^2) (Mironov, 2017, proposition 7), and
    epsilon <= a T / (2 s^2) + log(1 / delta) / (a - 1)."""
    found = plan(50, PrivacyConfig(epsilon=5, delta=1e-3, patients=50, epochs=10))
    assert found.steps == 10
    orders = np.linspace(1.01, 60, 5000)
    bound = (orders * 10 / (2 * found.noise**2) + np.log(1000) / (orders - 1)).min()
    assert found.epsilon <= bound
    assert found.epsilon == pytest.approx(bound, rel=0.2)  # opacus converts more tightly


def test_less_epsilon_needs_more_noise():
    noise = [plan(280, PrivacyConfig(epsilon=e, patients=28)).noise for e in (1, 3, 8)]
    assert noise[0] > noise[1] > noise[2]


def test_what_cannot_be_reached_is_said_before_training():
    with pytest.raises(InputError, match=r"privacy\.epsilon = 0\.001: can't be reached at delta"):
        plan(280, PrivacyConfig(epsilon=0.001, patients=280, epochs=10_000))
    with pytest.raises(InputError, match=r"privacy\.patients = 281: there are 280 in training"):
        plan(280, PrivacyConfig(patients=281))


def test_batch_normalisation_is_refused(original, unlearning_data, accelerator):
    with pytest.raises(InputError, match=r"image_tower\.bn1 is batch normalisation.*image_norm"):
        train_private(
            copy.deepcopy(original[0]), unlearning_data.retain, unlearning_data.validation,
            PrivacyConfig(patients=4), seed=0, accelerator=accelerator, progress=False,
        )  # fmt: skip


def gradients(model, examples, rows) -> list[torch.Tensor]:
    """Of the mean loss of some records, by autograd."""
    batch = examples.__getitems__(rows)
    output = model(batch["images"], batch["input_ids"], batch["attention_mask"])
    loss = record_losses(output, batch["labels"]).mean()
    return torch.autograd.grad(loss, [p for p in model.parameters() if p.requires_grad])


def test_a_gradient_by_patient_is_that_of_the_mean_of_their_records(parts):
    from opacus import GradSampleModule

    model, examples, _ = parts
    plain = copy.deepcopy(model).train()
    private._overwrite_nothing(model)
    undo = private._positions_by_record(model)
    wrapped = GradSampleModule(model.train(), loss_reduction="sum")
    owners = examples.patients.numpy()
    rows = np.flatnonzero(np.isin(owners, np.unique(owners)[:3]))
    private._set_gradients(wrapped, examples, rows, owners[rows], torch.device("cpu"))
    for place, patient in enumerate(np.unique(owners[rows])):
        expected = gradients(plain, examples, rows[owners[rows] == patient])
        found = [p.grad_sample[place] for p in wrapped.parameters() if p.requires_grad]
        for a, b in zip(found, expected, strict=True):
            torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-4)
    wrapped.to_standard_module()
    undo()


def test_nobody_moves_a_step_by_more_than_the_clip(parts, accelerator, monkeypatch):
    """Without noise, and with everybody in each step: two trainings of one step that differ in one
    patient differ, before division by the number of patients, by at most the clip."""
    model, examples, validation = parts
    count = len(np.unique(examples.patients.numpy()))
    moved = []

    def kept(optimizer):
        def step(closure=None):
            optimizer.pre_step()
            moved.append(torch.cat([p.grad.flatten() for p in optimizer.params]))

        return step

    import opacus.optimizers as optimizers

    class Recording(optimizers.DPOptimizer):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, **{**kwargs, "noise_multiplier": 0.0})
            self.step = kept(self)

    monkeypatch.setattr(optimizers, "DPOptimizer", Recording)
    settings = PrivacyConfig(patients=count, epochs=1, clip=0.05)
    without = examples.select(
        np.flatnonzero(examples.patients.numpy() != examples.patients[0].item())
    )
    for some in (examples, without):
        how = replace(settings, patients=len(np.unique(some.patients.numpy())))
        train_private(
            copy.deepcopy(model), some, validation, how, seed=0, accelerator=accelerator,
            progress=False,
        )  # fmt: skip
    difference = moved[0] * count - moved[1] * (count - 1)
    assert 0 < difference.norm() <= 0.05 * (1 + 1e-4)


def test_it_learns_and_can_be_kept(parts, accelerator, tmp_path, original):
    model, examples, validation = parts
    before = copy.deepcopy(model.state_dict())
    settings = PrivacyConfig(epsilon=50, patients=8, epochs=4)
    log = train_private(
        model, examples, validation, settings, seed=0, accelerator=accelerator, progress=False
    )
    assert log.epsilon <= 50
    assert log.steps == steps_of(len(np.unique(examples.patients.numpy())), settings)
    assert len(log.epochs) == 4
    assert log.work > 0
    assert any(not torch.equal(before[n], t) for n, t in model.state_dict().items())
    save_checkpoint(tmp_path / "model", model, original[1], {"cohort_fingerprint": "x"})
    again = load_checkpoint(tmp_path / "model").model
    assert all(torch.equal(a, b) for a, b in zip(
        model.state_dict().values(), again.state_dict().values(), strict=True
    ))  # fmt: skip


def test_the_same_seed_gives_the_same_weights(parts, accelerator):
    model, examples, validation = parts
    found = []
    for _ in range(2):
        each = copy.deepcopy(model)
        train_private(
            each, examples, validation, PrivacyConfig(patients=6, epochs=1), seed=4,
            accelerator=accelerator, progress=False,
        )  # fmt: skip
        found.append(each.state_dict())
    assert all(torch.equal(found[0][name], found[1][name]) for name in found[0])


def test_a_step_that_draws_nobody_is_noise_alone(parts, accelerator):
    model, examples, validation = parts
    settings = PrivacyConfig(patients=1, epochs=1, epsilon=8)
    log = train_private(
        model, examples, validation, settings, seed=0, accelerator=accelerator, progress=False
    )
    assert log.work < 3 * log.steps  # of three images a patient, about one patient a step
    assert all(torch.isfinite(t).all() for t in model.state_dict().values())
