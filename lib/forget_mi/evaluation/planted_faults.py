"""Two 'unlearnings' that forget nothing: planted faults which the paper's measures pass and an
audit has to catch."""

from __future__ import annotations

import copy
from dataclasses import replace

import numpy as np
import torch
from accelerate import Accelerator
from torch.nn.functional import cross_entropy, kl_div

from forget_mi.evaluation.audit import ModelAudit, measure_all
from forget_mi.evaluation.config import AuditConfig
from forget_mi.models import ImageTextModel
from forget_mi.training import Predictions, predict
from forget_mi.unlearning import UnlearningData


def head_only_edit(
    model: ImageTextModel,
    data: UnlearningData,
    *,
    seed: int,
    steps: int = 3000,
    accelerator: Accelerator,
) -> ImageTextModel:
    """A copy of the model of which only the output layers were changed: on D_f they say what the
    model outputs for validation patients with the same label, on D_r what it output before. The
    towers still know every patient."""
    edited = copy.deepcopy(model)
    seen = {
        side: predict(model, getattr(data, side), accelerator)
        for side in ("forget", "retain", "validation")
    }
    target_outputs = flipped(seen["forget"], seen["validation"], seed)
    for name in ("text", "image"):
        tower = getattr(edited, f"{name}_tower")
        if tower is None:
            continue
        z = {side: torch.from_numpy(getattr(p, f"{name}_embedding")) for side, p in seen.items()}
        target = torch.from_numpy(getattr(target_outputs, f"{name}_logits")).softmax(-1)
        labels = torch.from_numpy(seen["retain"].labels)
        head = tower.head.cpu().requires_grad_(True)
        optimizer = torch.optim.Adam(head.parameters(), lr=0.05)
        for _ in range(steps):
            leave = kl_div(head(z["forget"]).log_softmax(-1), target, reduction="batchmean")
            loss = leave + cross_entropy(head(z["retain"]), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return edited


def flip_predictions(audit: ModelAudit, settings: AuditConfig, seed: int) -> ModelAudit:
    """The audit of a model that forgot nothing and flips its predictions on D_f (see `flipped`)."""
    forget = flipped(audit.predictions["forget"], audit.predictions["validation"], seed)
    predictions = {**audit.predictions, "forget": forget}
    return replace(
        audit, name="flipped", predictions=predictions, measures=measure_all(predictions, settings)
    )


def flipped(forget: Predictions, strangers: Predictions, seed: int) -> Predictions:
    """The outputs for D_f of a model that looks its patients up in a list and answers for a
    stranger: each record gets the logits of a random stranger's record with the same label (of any
    stranger's, where none has it). Embeddings stay."""
    rng = np.random.default_rng([seed, 61])
    drawn = np.empty(len(forget), dtype=np.int64)
    for at, label in enumerate(forget.labels):
        alike = np.flatnonzero(strangers.labels == label)
        drawn[at] = rng.choice(alike if len(alike) else len(strangers))
    return replace(
        forget, image_logits=strangers.image_logits[drawn], text_logits=strangers.text_logits[drawn]
    )
