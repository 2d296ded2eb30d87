"""The model card: a README that model hubs read."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from forget_mi import __version__
from forget_mi.models.image_text import ImageTextModel
from forget_mi.models.networks import NetworkTower
from forget_mi.models.towers import ImageTower, TextTower


def model_card(model: ImageTextModel, facts: Mapping[str, Any]) -> str:
    """A README with the header that model hubs read: what the model was trained on (by name only),
    which requests it served (counted, hashed), what the audit found, how it is used without this
    library, licence and limits."""
    environment = Environment(
        loader=PackageLoader("forget_mi.models", "."),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    given = {
        "name": "Model",
        "cohort": "not stated",
        "method": "not stated",
        "training": "",
        "requests": [],
        "rows": [],
    }
    settings, image, text = model.settings, model.image_tower, model.text_tower
    named = settings.image_network or "a residual network" if image else "none"
    about = {
        "version": __version__,
        "classes": model.classes,
        "parameters": sum(p.numel() for p in model.parameters()),
        "image": named
        if isinstance(image, (NetworkTower, ImageTower)) or not image
        else type(image).__name__,
        "text": "none" if text is None else type(getattr(text, "encoder", text)).__name__,
        "plain_image": _plain_image(model),
        "plain_text": _plain_text(model),
    }
    return environment.get_template("model_card.md.j2").render({**given, **facts, **about})


def _plain_image(model: ImageTextModel) -> dict[str, Any] | None:
    """What the card's code needs to build a torchvision tower without this library."""
    library, _, kind = (model.settings.image_network or "").partition(":")
    if library != "torchvision" or not isinstance(model.image_tower, NetworkTower):
        return None
    tower = model.image_tower
    parent, _, last = tower.cut.rpartition(".")
    extra = ", aux_logits=False" if kind in ("googlenet", "inception_v3") else ""
    return {
        "kind": kind,
        "extra": extra,
        "channels": tower.channels,
        "width": tower.width,
        "parent": parent,
        "last": last,
    }


def _plain_text(model: ImageTextModel) -> dict[str, Any] | None:
    """The same of a text encoder of transformers."""
    tower = model.text_tower
    if not isinstance(tower, TextTower):
        return None
    pooled = "said.pooler_output" if tower.after_blocks() else "said.last_hidden_state[:, 0]"
    return {"width": tower.width, "tokens": model.max_tokens, "pooled": pooled}
