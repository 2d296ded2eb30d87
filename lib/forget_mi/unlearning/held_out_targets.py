"""Held-out targets: the forgotten records get the outputs, and the place among the embeddings, that
a model gives them which never saw the patient (cross-fitting; after oracle matching, Georgiev et
al., ICLR 2025, arXiv 2410.23232, whose oracle nobody has)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Annotated, Literal

import numpy as np
import torch
from accelerate import Accelerator
from pydantic import Field
from torch import Tensor
from torch.nn.functional import kl_div, mse_loss

from forget_mi.config import config
from forget_mi.data import Examples
from forget_mi.errors import InputError
from forget_mi.losses import classification_loss
from forget_mi.models import Embeddings, ImageTextModel, ModelOutput
from forget_mi.training import predict
from forget_mi.unlearning.base import (
    FORWARD_ONLY,
    Reference,
    StepConfig,
    UnlearningData,
    UnlearningLog,
)
from forget_mi.unlearning.loop import BatchOutput, UnlearningLoop
from forget_mi.unlearning.samplers import paired_sampler, steps_a_pass
from forget_mi.unlearning.search_space import LogUniform, OneOf
from forget_mi.unlearning.teacher_outputs import TeacherOutputs, to_model_output


@config
class Config(StepConfig):
    """squared: weight of the squared difference of centred logits beside the divergence.
    embeddings: weight of the distance of embeddings beside both; 0 leaves them alone. labels:
    weight of the cross-entropy on those who stay, beside the outputs of F_og. full_steps: a request
    of fewer steps a pass takes a lower rate, by the square root of their share: in so few steps all
    weights move the same way, and those who stay have too few records to hold them. The rest:
    StepConfig; the rate decays over the run, so all its epochs are run."""

    squared: Annotated[float, Field(ge=0, le=10)] = 0.1
    embeddings: Annotated[float, Field(ge=0, le=100)] = 1.0
    labels: Annotated[float, Field(ge=0, le=10)] = 1.0
    full_steps: Annotated[int, Field(ge=1)] = 12
    epochs: Annotated[int, Field(ge=1, le=10_000)] = 7
    batch_size: Annotated[int, Field(ge=1)] = 8
    least_steps: Annotated[int, Field(ge=1)] = 4
    retain_batch: Annotated[int, Field(ge=1)] = 16
    learning_rate: Annotated[float, Field(gt=0, le=1)] = 7e-4
    schedule: Literal["constant", "linear"] = "linear"
    batch_norm: Literal["train", "frozen"] = "train"
    stop: Literal["validation", "never"] = "never"


# Of the root mean square over the dimensions of an embedding.
LEAST_SPREAD = 0.05


# What a request costs, in passes and retained records, is for the search to choose within its
# budget: a higher rate makes forgetting deep, so that it does not come back when the model is
# trained on, and retained records pay for it.
SEARCH = {
    "learning_rate": LogUniform(4e-4, 2.5e-3),
    "epochs": OneOf((7, 10)),
    "retain_batch": OneOf((12, 16, 24, 28)),
    "labels": OneOf((1.0, 3.0)),
    "embeddings": OneOf((1.0, 3.0)),
}


def unlearn(
    model: ImageTextModel,
    data: UnlearningData,
    settings: Config,
    *,
    seed: int,
    accelerator: Accelerator,
    progress: bool = True,
) -> tuple[ImageTextModel, UnlearningLog]:
    """F_ul from F_og by minimising, over both towers t,

        D_f: KL(s_t(x) || F_ul,t(x)) + squared * |centred logits of F_ul,t(x) - those of s_t(x)|^2
             + embeddings * |(z_t(x) - A z_s,t(x)) / spread|^2
        D_r: KL and squares towards F_og,t(x), + labels * CE(F_ul,t(x), y)

    with s(x) the outputs of the reference models that never saw the patient of x, A z_s their
    embeddings in F_og's space (`held_out_outputs`), and the spread that of F_og's embeddings of
    D_v. Logits are a few directions of an embedding: held alone, they leave the patient's place in
    all others, where a linear probe finds it. Needs `data.references`; raises InputError where a
    record of D_f has none.
    """
    settings = replace(settings, learning_rate=rate_of(settings, len(data.forget)))
    loop = UnlearningLoop(
        model, data, settings, seed=seed, accelerator=accelerator, progress=progress
    )
    strangers = spread = None
    if settings.embeddings:
        strangers = embeddings_of(loop.original, data.validation, accelerator, loop.log)
        spread = Embeddings(*map(spread_of, strangers))
    forget_targets = held_out_outputs(data, accelerator, loop.log, strangers)
    retain_teacher = TeacherOutputs(loop.original, data.retain, accelerator, loop.log)

    def loss(forget: BatchOutput, retain: BatchOutput) -> dict[str, Tensor]:
        target = ModelOutput(*(t[forget.index] for t in forget_targets))
        forget_loss = divergence(forget.output, target, settings.squared)
        if settings.embeddings:
            z, wanted = forget.output.embeddings, target.embeddings
            forget_loss = forget_loss + settings.embeddings * spread_distance(z, wanted, spread)
        retain_loss = divergence(retain.output, retain_teacher.at(retain.index), settings.squared)
        labels = classification_loss(retain.output, retain.batch["labels"])
        total = forget_loss + retain_loss + settings.labels * labels
        return {"forget": forget_loss, "retain": retain_loss, "labels": labels, "total": total}

    return loop.run(
        paired_sampler(data, settings),
        loss,
        description="held-out targets",
        before_epoch=retain_teacher.compute_retained,
    )


def rate_of(settings: Config, records: int) -> float:
    """The rate of a request of so many records: `learning_rate`, times the square root of its steps
    a pass over `full_steps` where it has fewer."""
    share = steps_a_pass(records, settings) / settings.full_steps
    return settings.learning_rate * min(1.0, share) ** 0.5


def divergence(output: ModelOutput, target: ModelOutput, squared: float) -> Tensor:
    """Sum over the towers of KL(target || output), in nats, and `squared` times the mean squared
    difference of centred logits; averaged over the batch, a scalar.

    In this direction the divergence is steep where a record is still known by heart, which the
    other one is not.
    """
    total = output.text_logits.new_zeros(())
    for logits, target_logits in zip(output.logits, target.logits, strict=True):
        total = total + kl_div(
            logits.log_softmax(-1),
            target_logits.log_softmax(-1),
            log_target=True,
            reduction="batchmean",
        )
        total = total + squared * mse_loss(
            logits - logits.mean(-1, keepdim=True),
            target_logits - target_logits.mean(-1, keepdim=True),
        )
    return total


def spread_distance(z: Embeddings, target: Embeddings, spread: Embeddings) -> Tensor:
    """Sum over the towers of the mean squared difference of two embeddings, each dimension in units
    of its spread (width); averaged over the batch, a scalar."""
    return sum(
        (((own - wanted) / unit) ** 2).mean()
        for own, wanted, unit in zip(z, target, spread, strict=True)
        if own.shape[1]
    )


def embeddings_of(
    model: ImageTextModel, examples: Examples, accelerator: Accelerator, log: UnlearningLog
) -> Embeddings:
    """A model's embeddings of some records, in evaluation mode; the log counts them."""
    return outputs_of(model, examples, accelerator, log).embeddings


def held_out_outputs(
    data: UnlearningData,
    accelerator: Accelerator,
    log: UnlearningLog,
    strangers: Embeddings | None = None,
) -> ModelOutput:
    """The outputs of the references for D_f, each for the records whose patients it never saw, the
    mean where there are several: logits and embeddings (n, ...). Each reference reads only those
    records; the log counts them.

    strangers: F_og's embeddings of D_v. With them, the embeddings are where F_og would put D_f had
    it never seen it: each reference's own, carried into F_og's space by a linear map fitted on D_v,
    which neither was trained on. Without, they are in the references' own spaces.

    Raises InputError where a record has no such reference.
    """

    def read(reference: Reference, records: Examples) -> ModelOutput:
        output = outputs_of(reference.model, records, accelerator, log)
        if strangers is None:
            return output
        here = embeddings_of(reference.model, reference.validation, accelerator, log)
        return ModelOutput(*output[:2], *map(carried, output.embeddings, here, strangers))

    return ModelOutput(*mean_over_references(data, read))


def carried(z: Tensor, here: Tensor, there: Tensor) -> Tensor:
    """Embeddings z (n, width) of one model in the space of another, by the linear map that carries
    `here` to `there`, both models' embeddings of the same records (m, width): ridge, its strength
    by leave-one-out."""
    if not z.shape[1]:  # there is no such tower
        return z
    from sklearn.linear_model import RidgeCV
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    carry = make_pipeline(StandardScaler(), RidgeCV(alphas=np.logspace(-3, 4, 15)))
    carry.fit(here.cpu().numpy(), there.cpu().numpy())
    return torch.from_numpy(carry.predict(z.cpu().numpy())).to(z)


def spread_of(z: Tensor) -> Tensor:
    """Standard deviation of each dimension of some embeddings (width), none below LEAST_SPREAD of
    their root mean square: a dimension that hardly moves must not rule the distance."""
    if not z.shape[1]:  # there is no such tower
        return z.new_zeros(0)
    spread = z.std(0, correction=0)
    return spread.clamp_min(LEAST_SPREAD * spread.square().mean().sqrt())


def mean_over_references(
    data: UnlearningData, read: Callable[[Reference, Examples], Sequence[Tensor]]
) -> tuple[Tensor, ...]:
    """What `read` gives of D_f, each tensor (n, ...): of each record the mean over the references
    that never saw its patient. read: is given a reference and the records of D_f that it may read.

    Raises InputError where a record has no such reference.
    """
    check_references(data)
    total, count = None, torch.zeros(len(data.forget), 1)
    for reference in data.references:
        records = torch.from_numpy(np.flatnonzero(reference.stranger))
        if len(records) == 0:
            continue
        found = read(reference, reference.forget.select(records))
        if total is None:
            total = [t.new_zeros(len(data.forget), t.shape[1]) for t in found]
        for sums, t in zip(total, found, strict=True):
            sums.index_add_(0, records.to(t.device), t)
        count[records] += 1
    return tuple(sums / count.to(sums.device) for sums in total)


def outputs_of(
    model: ImageTextModel, examples: Examples, accelerator: Accelerator, log: UnlearningLog
) -> ModelOutput:
    """A model's outputs for some records, in evaluation mode; the log counts them."""
    log.work += FORWARD_ONLY * len(examples)
    return to_model_output(predict(model, examples, accelerator), accelerator.device)


def check_references(data: UnlearningData) -> None:
    """Raise InputError where a record of D_f has no reference that is a stranger to its patient."""
    if not data.references:
        raise InputError(
            "parameter references.folds = 0: this way to unlearn learns from reference models that "
            "never saw the patients; at least 2 folds are needed (they are trained by notebook 02)"
        )
    alone = ~np.any([reference.stranger for reference in data.references], axis=0)
    if alone.any():
        raise InputError(
            f"{int(alone.sum())} of {len(alone)} records of the request have no reference model "
            "that never saw their patient; train the references again"
        )
