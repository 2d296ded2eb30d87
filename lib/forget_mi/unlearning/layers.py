"""Which part of the two towers a method trains: the last k layers of each, and the heads."""

from __future__ import annotations

from torch import nn

from forget_mi.errors import InputError
from forget_mi.models import ImageTextModel, build_model


def last_layers(model: ImageTextModel, k: int) -> list[nn.Module]:
    """The last k residual blocks of the image tower, the last k encoder layers of the text tower and its pooler, and
    both heads. Where a tower has fewer than k layers, all of them (stem and token embeddings stay out).

    Raises InputError for a text tower whose layers can't be found.
    """
    image = model.image_tower
    blocks = [block for stage in image.stages for block in stage] if image else []
    encoder = model.text_tower.encoder
    layers = getattr(getattr(encoder, "encoder", None), "layer", None)
    if layers is None:
        raise InputError(
            f"parameter model.text_pretrained: a {type(encoder).__name__} has no encoder.layer to take the last {k} "
            "of; CF-k and EU-k need a BERT"
        )
    pooler = [encoder.pooler] if getattr(encoder, "pooler", None) is not None else []
    heads = [tower.head for tower in (image, model.text_tower) if tower]
    return [*blocks[-k:], *list(layers)[-k:], *pooler, *heads]


def train_only(model: ImageTextModel, layers: list[nn.Module]) -> None:
    """Let only the given layers be trained, in place."""
    model.requires_grad_(False)
    for layer in layers:
        layer.requires_grad_(True)


def reinitialise(model: ImageTextModel, k: int, seed: int) -> None:
    """Give the last k layers and the heads the weights of a new model drawn from the seed, in place."""
    encoder = model.text_tower.encoder
    fresh = build_model(
        model.settings,
        classes=model.classes,
        vocabulary=encoder.config.vocab_size,
        seed=seed,
        text_config=encoder.config,
    )
    for old, new in zip(last_layers(model, k), last_layers(fresh, k), strict=True):
        old.load_state_dict(new.state_dict())
