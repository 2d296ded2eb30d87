"""Rewinding: back towards the weights that a model's towers were pretrained with, before the first
step (between two fine-tuned states of one pretrained network lies no barrier: Wortsman et al., CVPR
2022, arXiv 2109.01903, who interpolate towards the pretrained weights to keep what they knew)."""

from __future__ import annotations

import torch
from torch import nn

from forget_mi.errors import InputError
from forget_mi.models import ImageTextModel, build_model, text_config_of
from forget_mi.models.towers import ProjectedTower, Tower


def rewind(model: ImageTextModel, share: float) -> None:
    """Move a model's pretrained networks, in place, `share` (0 to 1) of the way back to the weights
    and statistics that they were loaded with. Heads, projections and towers from scratch stay.

    Fine-tuning is short, and what it learns of one patient goes with the first part of the way;
    what it learns of all goes later, and the steps that follow bring it back.

    Raises InputError where no tower was pretrained, or where nothing says any more with what.
    """
    trained = pretrained_networks(model)
    if not trained:
        raise InputError(
            f"parameter unlearning.rewind = {share}: no tower of this model was pretrained "
            "(model.image_weights, model.text_pretrained, model.dual_encoder); only 0 is allowed"
        )
    vocabulary = getattr(text_config_of(model), "vocab_size", 0)
    with torch.random.fork_rng(devices=[]):  # the weights of new heads are drawn, and thrown away
        before = pretrained_networks(build_model(model.settings, model.classes, vocabulary, 0))
    with torch.no_grad():
        for network, loaded in zip(trained, before, strict=True):
            there = loaded.state_dict()
            for name, now in network.state_dict().items():
                if now.is_floating_point():
                    now.lerp_(there[name].to(now), share)


def pretrained_networks(model: ImageTextModel) -> list[nn.Module]:
    """The parts of a model that were loaded with pretrained weights, image first; none where the
    model was built from scratch, or is one piece."""
    settings, found = model.settings, []
    if settings.dual_encoder:
        return [part for t in model.towers() for part in (t.encoder, t.projection)]
    if model.image_tower is not None and settings.image_network and settings.image_weights:
        found.append(_inside(model.image_tower).network)
    if model.text_tower is not None and settings.text_pretrained:
        found.append(_inside(model.text_tower).encoder)
    return found


def _inside(tower: Tower) -> Tower:
    """A tower without its projection."""
    return tower.tower if isinstance(tower, ProjectedTower) else tower
