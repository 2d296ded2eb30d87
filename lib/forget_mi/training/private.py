"""Training with differential privacy by patient (DP-SGD; Abadi et al., CCS 2016, arXiv 1607.00133),
with opacus.

Nobody is known by heart: what a patient's records do to a step is clipped together and hidden in
noise, so that (epsilon, delta) holds for a whole patient, whatever the number of their records.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Annotated

import numpy as np
import torch
from accelerate import Accelerator
from pydantic import Field
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torchvision.models.resnet import BasicBlock
from tqdm.auto import tqdm

from forget_mi.config import config
from forget_mi.data import Examples, stored_batch, to_float
from forget_mi.errors import InputError, import_extra
from forget_mi.metrics import mean_auc
from forget_mi.models import ImageTextModel, ModelOutput
from forget_mi.training.devices import to_device
from forget_mi.training.prediction import predict


@config
class PrivacyConfig:
    """epsilon, delta: of the guarantee by patient; delta None is one over the number of patients.
    clip: largest norm of what a patient contributes to a step. patients: expected in a step, each
    drawn by itself (Poisson). epochs: steps times patients over all patients. learning_rate: of
    Adam, constant."""

    epsilon: Annotated[float, Field(gt=0, le=1000)] = 3.0
    delta: Annotated[float, Field(gt=0, lt=1)] | None = None
    clip: Annotated[float, Field(gt=0)] = 1.0
    patients: Annotated[int, Field(ge=1)] = 32
    epochs: Annotated[int, Field(ge=1, le=10_000)] = 30
    learning_rate: Annotated[float, Field(gt=0, le=1)] = 1e-3


@dataclass
class PrivateLog:
    """epsilon: what was spent at delta, by the accountant. noise: standard deviation over clip.
    rate: the probability with which a patient is in a step. work: records forward and backward.
    epochs: a row each."""

    epsilon: float
    delta: float
    noise: float
    rate: float
    steps: int
    work: float = 0.0
    seconds: float = 0.0
    epochs: list[dict[str, float]] = field(default_factory=list)


def plan(patients: int, settings: PrivacyConfig) -> PrivateLog:
    """The noise with which a training of so many patients stays within epsilon, before it starts.

    Raises InputError where more patients a step are asked for than there are, and where no noise
    reaches epsilon with these steps.
    """
    import_extra("opacus", "privacy")
    from opacus.accountants import RDPAccountant
    from opacus.accountants.utils import get_noise_multiplier

    if settings.patients > patients:
        raise InputError(
            f"parameter privacy.patients = {settings.patients}: there are {patients} in training"
        )
    delta = 1 / patients if settings.delta is None else settings.delta
    rate, steps = settings.patients / patients, steps_of(patients, settings)
    try:
        noise = get_noise_multiplier(
            target_epsilon=settings.epsilon,
            target_delta=delta,
            sample_rate=rate,
            steps=steps,
            accountant="rdp",
        )
    except ValueError:
        raise InputError(
            f"parameter privacy.epsilon = {settings.epsilon}: can't be reached at delta "
            f"{delta:.2g} with {steps} steps of {settings.patients} of {patients} patients; fewer "
            "epochs, fewer patients a step, or a larger epsilon are needed"
        ) from None
    accountant = RDPAccountant()
    accountant.history = [(noise, rate, steps)]
    return PrivateLog(accountant.get_epsilon(delta), delta, noise, rate, steps)


def steps_of(patients: int, settings: PrivacyConfig) -> int:
    """How many steps the epochs have."""
    return max(1, round(settings.epochs * patients / settings.patients))


def train_private(
    model: ImageTextModel,
    examples: Examples,
    validation: Examples,
    settings: PrivacyConfig,
    *,
    seed: int,
    accelerator: Accelerator,
    progress: bool | str = True,
) -> PrivateLog:
    """Train the model in place by CE(image) + CE(text), without the ranking loss, which ties
    records to each other. A patient's gradient is the mean over their records.

    seed: of the patients drawn and of the noise. Whoever knows it can take the noise away again: a
    model that leaves the house is trained with a seed that is then forgotten.

    Raises InputError for batch normalisation, and as `plan` does.
    """
    import_extra("opacus", "privacy")
    from opacus import GradSampleModule
    from opacus.optimizers import DPOptimizer

    normalised = [n for n, m in model.named_modules() if isinstance(m, _BATCH_NORMS)]
    if normalised:
        raise InputError(
            f"{normalised[0]} is batch normalisation, in which a record depends on others of its "
            "batch: there is no privacy by record with it; set model.image_norm to group"
        )
    patients, of_patient = np.unique(examples.patients.numpy(), return_inverse=True)
    log = plan(len(patients), settings)
    started = time.perf_counter()
    to_device(model, accelerator)
    rng = np.random.default_rng([seed, 43])
    torch.manual_seed(seed)
    _overwrite_nothing(model)
    hook = _positions_by_record(model)
    wrapped = GradSampleModule(model, loss_reduction="sum")
    try:
        optimizer = DPOptimizer(
            torch.optim.Adam(model.parameters(), lr=settings.learning_rate),
            noise_multiplier=log.noise,
            max_grad_norm=settings.clip,
            expected_batch_size=settings.patients,
            generator=torch.Generator(accelerator.device).manual_seed(seed),
        )
        label = progress if isinstance(progress, str) else "private training"
        bar = tqdm(range(log.steps), desc=label, unit="step", disable=not progress)
        for step in bar:
            drawn = np.flatnonzero(rng.random(len(patients)) < log.rate)
            rows = np.flatnonzero(np.isin(of_patient, drawn))
            model.train()
            _set_gradients(wrapped, examples, rows, of_patient[rows], accelerator.device)
            optimizer.step()
            optimizer.zero_grad()
            log.work += len(rows)
            if (step + 1) * settings.epochs // log.steps > step * settings.epochs // log.steps:
                seen = predict(model, validation, accelerator)
                auc = mean_auc(seen.labels, seen.probabilities("fused"))
                log.epochs.append({"epoch": len(log.epochs) + 1, "validation_auc": auc})
                bar.set_postfix(validation_auc=f"{auc:.3f}")
    finally:
        wrapped.to_standard_module()
        hook()
    log.seconds = time.perf_counter() - started
    return log


def _set_gradients(
    wrapped: nn.Module, examples: Examples, rows: np.ndarray, owners: np.ndarray, device
) -> None:
    """Each parameter's grad_sample (patients of the step, ...): the mean of each patient's records.
    A step that drew nobody has none, and is noise alone."""
    trained = [p for p in wrapped.parameters() if p.requires_grad]
    if len(rows) == 0:
        for p in trained:
            p.grad_sample = p.new_zeros((0, *p.shape))
        return
    batch = {name: t.to(device) for name, t in stored_batch([(examples, rows)]).items()}
    output = wrapped(to_float(batch["images"]), batch["input_ids"], batch["attention_mask"])
    record_losses(output, batch["labels"]).sum().backward()
    _, owner, counts = np.unique(owners, return_inverse=True, return_counts=True)
    owner = torch.from_numpy(owner).to(device)
    weight = 1 / torch.from_numpy(counts).to(device)
    for p in trained:
        by_record = p.grad_sample
        by_patient = by_record.new_zeros((len(counts), *p.shape)).index_add_(0, owner, by_record)
        p.grad_sample = by_patient * weight.to(by_patient).view(-1, *[1] * p.ndim)


def record_losses(output: ModelOutput, labels: Tensor) -> Tensor:
    """CE(image) + CE(text) of each record (n)."""
    return sum(cross_entropy(logits, labels, reduction="none") for logits in output.logits)


def _overwrite_nothing(model: nn.Module) -> None:
    """Gradients by record come from hooks, which don't bear that an output is overwritten."""
    for module in model.modules():
        if getattr(module, "inplace", False):
            module.inplace = False
        if type(module) is BasicBlock:
            module.__class__ = _AddingBlock


class _AddingBlock(BasicBlock):
    """torchvision's block, whose sum has a place of its own."""

    def forward(self, x: Tensor) -> Tensor:
        """relu(f(x) + shortcut(x))."""
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        return self.relu(out + (x if self.downsample is None else self.downsample(x)))


_BATCH_NORMS = nn.modules.batchnorm._BatchNorm


def _positions_by_record(model: ImageTextModel):
    """Let a BERT look positions up for each record: the library does so once for the batch, and a
    record's gradient could not be told. Returns what undoes it."""
    embeddings = getattr(getattr(model.text_tower, "encoder", None), "embeddings", None)
    if embeddings is None:
        return lambda: None

    def with_positions(_, args, kwargs):
        tokens = kwargs.get("input_ids", args[0] if args else None)
        if tokens is not None and kwargs.get("position_ids") is None:
            places = torch.arange(tokens.shape[1], device=tokens.device)
            kwargs["position_ids"] = places.expand(tokens.shape[0], -1)
        return args, kwargs

    handle = embeddings.register_forward_pre_hook(with_positions, with_kwargs=True)
    return handle.remove
