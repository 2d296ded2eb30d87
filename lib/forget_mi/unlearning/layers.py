"""The part of the two towers that CF-k and EU-k train: the last k layers of each, and the heads."""

from __future__ import annotations

from torch import nn

from forget_mi.errors import InputError
from forget_mi.models import ImageTextModel, reinitialized


def last_layers(model: ImageTextModel, k: int) -> list[nn.Module]:
    """The last k blocks of each tower (residual blocks, encoder layers), what comes after them
    (pooler, projection), and the heads. Where a tower has fewer than k blocks, all of them (stem
    and token embeddings stay out).

    Raises InputError for a tower whose blocks can't be told apart.
    """
    found = []
    for tower in model.towers():
        blocks = tower.blocks()
        if not blocks:
            raise InputError(
                f"the {type(tower).__name__}'s layers can't be told apart, so there is no last {k} "
                "of them; CF-k and EU-k need a tower whose blocks() lists them"
            )
        found += [*blocks[-k:], *tower.after_blocks(), tower.head]
    return found


def train_only(model: ImageTextModel, layers: list[nn.Module]) -> None:
    """Let only the given layers be trained, in place."""
    model.requires_grad_(False)
    for layer in layers:
        layer.requires_grad_(True)


def reinitialize_last(model: ImageTextModel, k: int, seed: int) -> None:
    """Give the last k layers and the heads the weights of a new model drawn from the seed, in
    place."""
    new_model = reinitialized(model, seed)
    for old, new in zip(last_layers(model, k), last_layers(new_model, k), strict=True):
        old.load_state_dict(new.state_dict())
