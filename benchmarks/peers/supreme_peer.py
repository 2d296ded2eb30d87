"""supreme-unlearning 0.1.5: its methods are functions of a Lightning Fabric and data loaders."""

from __future__ import annotations

import importlib
import os
from collections.abc import Mapping
from functools import partial
from typing import Any

from method import Classifier, PeerMethod, Records
from torch import nn
from torch.utils.data import ConcatDataset, DataLoader

from forget_mi.models import reinitialized
from forget_mi.unlearning import LogUniform, OneOf, UnlearningData, Whole

PACKAGE, VERSION, MODULE = "supreme-unlearning", "0.1.5", "supreme"
# What its code imports and this environment lacks; its own pins (torch 2.1.0, numpy below 2) do not
# install beside a torch of today.
NEEDS = ("lightning==2.6.6", "lightning-utilities==0.15.3", "torchmetrics==1.9.0")
WHOLE = ("wandb==0.31.0",)
INSTALLED = "installed without its pins (torch 2.1.0)"
BATCH = 128


def call(
    name: str,
    classifier: Classifier,
    data: UnlearningData,
    settings: Mapping[str, Any],
    image_only: bool,
    seed: int,
) -> nn.Module:
    """Run supreme.methods.unlearning_methods.<name> for a request of records at random ('random_'),
    the only kind of its three that is not a class."""
    os.environ["SCALENE"] = "1"  # its own switch: data loaders without eight processes each
    from lightning.fabric import Fabric

    device = next(classifier.parameters()).device
    fabric = Fabric(accelerator=device.type, devices=1)
    forget, retain = (
        Records(examples, image_only=image_only, twice=True)
        for examples in (data.forget, data.retain)
    )

    def loader(dataset: Any, shuffle: bool = True) -> Any:
        return fabric.setup_dataloaders(DataLoader(dataset, BATCH, shuffle=shuffle))

    validation = Records(data.validation, image_only=image_only, twice=True)
    bad = Classifier(reinitialized(classifier.model, seed).to(device), classifier.counter)
    module = importlib.import_module(f"supreme.methods.unlearning_methods.{name}")
    getattr(module, name)(
        fabric=fabric,
        num_gpus=1,
        wandb_logging_flag=False,
        model=classifier,
        type_of_unlearning_strategy="random_",
        num_labels=classifier.model.classes,
        unlearning_teacher=bad,
        retain_train_dataloader=loader(retain),
        forget_train_dataloader=loader(forget),
        full_train_dataloader=loader(ConcatDataset([forget, retain])),
        # What it prints its accuracy on; no choice is made by it.
        retain_test_dataloader=loader(validation, shuffle=False),
        forget_test_dataloader=loader(validation, shuffle=False),
        **settings,
    )
    # It was changed in place; what the function returns is the same behind Fabric's wrapper.
    return classifier


def method(name: str, **more: Any) -> PeerMethod:
    """One of its methods."""
    return PeerMethod(name, partial(call, name), patched=INSTALLED, **more)


DAMPENING = {
    "dampening_constant": LogUniform(0.1, 5.0),
    "selection_weighting": LogUniform(0.5, 100.0),
}
METHODS = (
    method("finetune"),
    method("neg_grad"),
    method("random_labeling"),
    method("bad_teacher"),
    method(
        "scrub",
        defaults={"sgda_epochs": 10, "sgda_learning_rate": 5e-4, "msteps": 3, "smoothing": 0.5},
        SEARCH={
            "sgda_learning_rate": LogUniform(5e-5, 5e-3),
            "sgda_epochs": Whole(1, 3),
            "msteps": Whole(1, 3),
            "smoothing": OneOf((0.0, 0.5)),
        },
    ),
    method(
        "ssd", defaults={"dampening_constant": 1.0, "selection_weighting": 10.0}, SEARCH=DAMPENING
    ),
    method(
        "lfssd", defaults={"dampening_constant": 1.0, "selection_weighting": 3.5}, SEARCH=DAMPENING
    ),
    # Record by record, and slow: what the search of ssd chose would be right for it as well.
    method("ssd_det", defaults={"dampening_constant": 1.0, "selection_weighting": 10.0}),
    method(
        "jit",
        defaults={"n_epochs": 1, "n_samples": 10, "learning_rate": 1e-3, "jit_weighting": 0.1},
        SEARCH={
            "learning_rate": LogUniform(1e-5, 1e-1),
            "n_epochs": Whole(1, 5),
            "jit_weighting": LogUniform(0.01, 1.0),
        },
        towers=("image",),  # it adds noise to its input, which a token does not bear
    ),
)
LEFT_OUT = {"unsir": "forgets a class, not patients (its code says so)"}
