"""erasus 0.2.0: its strategies are called by name through ErasusUnlearner."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from method import Classifier, PeerMethod, Records
from torch import nn
from torch.utils.data import DataLoader

from forget_mi.unlearning import LogUniform, OneOf, SearchSpace, UnlearningData, Whole

PACKAGE, VERSION, MODULE = "erasus", "0.2.0", "erasus"
NEEDS = WHOLE = ()
BATCH = 32


def call(
    name: str,
    classifier: Classifier,
    data: UnlearningData,
    settings: Mapping[str, Any],
    image_only: bool,
    seed: int,
) -> nn.Module:
    """Run a strategy; `epochs` is its fit's, the rest are the strategy's own."""
    from erasus.unlearners.erasus_unlearner import ErasusUnlearner

    forget, retain = (
        DataLoader(
            Records(examples, image_only=image_only),
            BATCH,
            shuffle=True,
            generator=torch.Generator().manual_seed(seed),
        )
        for examples in (data.forget, data.retain)
    )
    settings = dict(settings)
    epochs = settings.pop("epochs")
    device = str(next(classifier.parameters()).device)
    unlearner = ErasusUnlearner(classifier, name, device=device, strategy_kwargs=settings)
    return unlearner.fit(forget, retain, epochs=epochs).model


def method(name: str, defaults: Mapping[str, Any], search: SearchSpace) -> PeerMethod:
    """One of its strategies, with the strategy's published settings and fit's five epochs."""
    each = {"epochs": Whole(1, 2)} | ({"lr": LogUniform(1e-5, 1e-2)} if "lr" in defaults else {})
    return PeerMethod(name, partial(call, name), {"epochs": 5, **defaults}, each | search)


METHODS = (
    method("gradient_ascent", {"lr": 1e-4}, {}),
    method("negative_gradient", {"lr": 1e-4}, {"epochs": Whole(1, 10)}),
    method("wga", {"lr": 1e-3}, {}),
    method("scrub", {"lr": 1e-4, "kl_weight": 1.0, "l2_weight": 0.01}, {}),
    method("saliency_unlearning", {"lr": 1e-4, "saliency_threshold": 0.2}, {
        "saliency_threshold": OneOf((0.1, 0.2, 0.5)),
    }),
    method("fisher_forgetting", {"lr": 1e-4, "fisher_lambda": 1000.0}, {
        "fisher_lambda": LogUniform(1.0, 1e4),
    }),
    method("knowledge_distillation", {"lr": 1e-4, "temperature": 4.0, "alpha": 0.7}, {}),
    method("sparse_aware", {"lr": 1e-4, "sparsity_weight": 1e-3}, {
        "sparsity_weight": LogUniform(1e-5, 1e-2),
    }),
    method("layer_freezing", {"lr": 1e-4, "freeze_ratio": 0.5}, {}),
    method("parameter_subset", {"lr": 1e-4, "sparsity": 0.2}, {}),
    method("amnesiac", {"unlearn_lr": 1e-4, "heal_lr": 1e-5, "healing_epochs": 2}, {
        "unlearn_lr": LogUniform(1e-5, 1e-2),
        "heal_lr": LogUniform(1e-5, 1e-2),
        "healing_epochs": Whole(0, 2),
    }),
    method("ssd", {}, {}),
)  # fmt: skip
LEFT_OUT = {
    "sisa": "its code changes nothing (it says so)",
    "modality_decoupling": "asks for a CLIP model with a logit scale",
    "certified_removal": "falls back to gradient ascent where its Hessian product fails",
}
