"""Adapters: networks that know nothing of this library, as a model that it can unlearn
(docs/your-own-model.md)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from forget_mi.config import import_object
from forget_mi.errors import InputError
from forget_mi.models.config import ModelConfig
from forget_mi.models.image_text import ImageTextModel
from forget_mi.models.outputs import ModelOutput
from forget_mi.models.towers import Tower


class AdaptedTower(Tower):
    """Someone's own network, left as it is: its logits, and as z what goes into its last linear
    layer.

    head: the name of that layer in the network; by default the last nn.Linear that it lists.
    Inputs as they come, or as `prepare` makes them -> (batch, width), (batch, classes).

    Raises InputError where there is no such layer.
    """

    is_adapted = True

    def __init__(self, network: nn.Module, head: str | None = None):
        super().__init__()
        linear = [name for name, module in network.named_modules() if isinstance(module, nn.Linear)]
        name = head or (linear[-1] if linear else None)
        if name not in linear:
            raise InputError(
                f"head {name!r}: {type(network).__name__} has no such linear layer; it has "
                f"{', '.join(linear) or 'none'}"
            )
        self.network, self.head_name = network, name

    @property
    def head(self) -> nn.Linear:
        """The network's last linear layer."""
        return self.network.get_submodule(self.head_name)

    def blocks(self) -> list[nn.Module]:
        """The longest list of layers in the network."""
        sequences = [
            m for m in self.network.modules() if isinstance(m, (nn.ModuleList, nn.Sequential))
        ]
        return [b for b in max(sequences, key=len, default=[]) if b is not self.head]

    def forward(self, *inputs: Tensor) -> tuple[Tensor, Tensor]:
        """z and its logits."""
        # For this call only: a hook that stays would be copied with the model, and see the copy's
        # original.
        seen = []
        handle = self.head.register_forward_pre_hook(
            lambda module, arguments: seen.append(arguments[0])
        )
        try:
            output = self.network(*self.prepare(*inputs))
        finally:
            handle.remove()
        logits = getattr(output, "logits", output)
        if not seen or not isinstance(logits, Tensor):
            raise InputError(
                f"{type(self.network).__name__}: gives {type(output).__name__}, and "
                f"{self.head_name} was {'used' if seen else 'not used'}; a tower must give its "
                "logits (batch, classes), or have them as .logits, from that layer"
            )
        return seen[-1], logits

    def prepare(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """What the network is called with."""
        return inputs


class AdaptedImage(AdaptedTower):
    """Someone's image network. channels: that it takes; one-channel images are repeated. mean, std:
    by which images in [0, 1] are normalised before, a number or one a channel."""

    def __init__(
        self,
        network: nn.Module,
        head: str | None = None,
        channels: int | None = None,
        mean=0.0,
        std=1.0,
    ):
        super().__init__(network, head)
        first = next((m for m in network.modules() if isinstance(m, nn.Conv2d)), None)
        self.channels = channels or (first.in_channels if first is not None else 1)
        for name, values in (("mean", mean), ("std", std)):
            values = torch.as_tensor(values, dtype=torch.float32).reshape(1, -1, 1, 1)
            self.register_buffer(name, values, persistent=False)

    def prepare(self, images: Tensor) -> tuple[Tensor, ...]:
        """As many channels as the network takes, normalised."""
        return ((images.expand(-1, self.channels, -1, -1) - self.mean) / self.std,)


class AdaptedText(AdaptedTower):
    """Someone's text network, called as transformers' are: (input_ids, attention_mask)."""


OUTPUTS = ModelOutput._fields


def adapt(
    image: nn.Module | None = None,
    text: nn.Module | None = None,
    *,
    max_tokens: int = 128,
    image_head: str | None = None,
    text_head: str | None = None,
    channels: int | None = None,
    mean: Sequence[float] | float = 0.0,
    std: Sequence[float] | float = 1.0,
) -> ImageTextModel:
    """A model that this library can make forget, from networks that know nothing of it; they are
    left as they are, in `model.image_tower.network` and `model.text_tower.network`.

    image: called with images (batch, channels, height, width), normalised by mean and std. text:
    called with input_ids and attention_mask, as transformers' are. Each gives logits (batch,
    classes), as they are or as `.logits`, from a linear layer; what goes into it is the embedding.
    image_head, text_head: that layer's name, by default the last linear one. max_tokens: at which
    reports are cut.

    Raises InputError for no network at all, a head that is not there, and towers that tell
    different classes apart.
    """
    if image is None and text is None:
        raise InputError(
            "adapt: neither an image nor a text network was given; one tower is enough, none is not"
        )
    towers = (
        "both" if image is not None and text is not None else "image" if text is None else "text"
    )
    image_tower = None if image is None else AdaptedImage(image, image_head, channels, mean, std)
    text_tower = None if text is None else AdaptedText(text, text_head)
    if towers == "both" and image_tower.head.out_features != text_tower.head.out_features:
        raise InputError(
            f"the image network tells {image_tower.head.out_features} classes apart and the text "
            f"network {text_tower.head.out_features}; both must give logits of the same classes"
        )
    settings = ModelConfig(towers=towers, max_tokens=max_tokens)
    return ImageTextModel(settings, image_tower, text_tower)


class WholeModel(nn.Module):
    """A model of one's own that gives everything itself: its forward returns the fields of
    ModelOutput by name (a mapping, or an object with these attributes). A tower that is not there
    is left out.

    Raises InputError at the first call where a tower's logits or embedding are missing.
    """

    image_tower = text_tower = None  # they can't be told apart
    is_adapted = False

    def __init__(
        self, model: nn.Module, settings: ModelConfig, classes: int, widths: tuple[int, int]
    ):
        super().__init__()
        self.model, self.settings, self.classes, self.widths = (
            model,
            settings,
            classes,
            tuple(widths),
        )
        self.max_tokens = settings.max_tokens if self.widths[1] else 0

    def forward(self, images: Tensor, input_ids: Tensor, attention_mask: Tensor) -> ModelOutput:
        """Both towers' logits and embeddings."""
        return as_model_output(self.model(images, input_ids, attention_mask))

    def towers(self) -> list:
        """Raises InputError: its layers are its own business."""
        raise InputError(
            f"{type(self.model).__name__} is one piece: methods that train the last layers of a "
            "tower (CF-k, EU-k) can't tell which they are; choose another method, or give the "
            "towers apart (contract.adapt)"
        )


def as_model_output(output: Any) -> ModelOutput:
    """The output of a model of one's own as a ModelOutput.

    Raises InputError that says what is missing, and what can't be done without it.
    """
    if isinstance(output, ModelOutput):
        return output
    get = output.get if isinstance(output, Mapping) else lambda name: getattr(output, name, None)
    found = {name: get(name) for name in OUTPUTS}
    for tower in ("image", "text"):
        logits, z = found[f"{tower}_logits"], found[f"{tower}_embedding"]
        if (logits is None) != (z is None):
            lacking = "logits" if logits is None else "embedding"
            raise InputError(
                f"no {lacking} of the {tower} tower ({tower}_{lacking}): "
                + (
                    "the classification losses and the attacks can't look at it; add them"
                    if logits is None
                    else "Forget-MI's distances and the probes of the audit can't be computed; add "
                    "what its last "
                    "linear layer is fed with"
                )
            )
    if all(found[f"{tower}_logits"] is None for tower in ("image", "text")):
        kind = (
            f"a tensor {tuple(output.shape)}"
            if isinstance(output, Tensor)
            else type(output).__name__
        )
        raise InputError(
            f"no per-tower logits: the model gives {kind}, and neither the unimodal losses nor the "
            f"attacks on a tower can be computed; return {', '.join(OUTPUTS)} by name (one tower's "
            "two are enough), or give the networks of the towers apart (contract.adapt)"
        )
    some = next(value for value in found.values() if value is not None)
    nothing = some.new_zeros(len(some), 0)
    return ModelOutput(*(nothing if value is None else value for value in found.values()))


def from_factory(settings: ModelConfig, classes: int) -> ImageTextModel | WholeModel:
    """The model that `settings.factory`, 'package.module:name', makes of `classes` and the
    settings' arguments: an ImageTextModel, a mapping for `adapt` ({'image': network, 'text':
    network, ...}), or a module that fulfils the contract by itself.

    Raises InputError where it can't be imported or called, or makes something else.
    """
    what = f"parameter model.factory = {settings.factory!r}"
    function = import_object(settings.factory, "model.factory")
    try:
        made = function(classes=classes, **settings.arguments)
    except TypeError as error:
        raise InputError(
            f"{what}: can't be called with classes and {settings.arguments or 'no arguments'} "
            f"({error})"
        ) from None
    if isinstance(made, Mapping):
        made = adapt(**{"max_tokens": settings.max_tokens, **made})
    if isinstance(made, ImageTextModel):
        made.settings = settings
        return made
    if not isinstance(made, nn.Module):
        raise InputError(
            f"{what}: makes a {type(made).__name__}; a torch module or a mapping of networks is "
            "allowed"
        )
    missing = [name for name in ("classes", "widths") if not hasattr(made, name)]
    if missing:
        raise InputError(
            f"{what}: its {type(made).__name__} lacks {' and '.join(missing)}: classes, how many "
            "it tells apart, and widths, of its image and its text embedding (0 for a tower that "
            "is not there)"
        )
    return WholeModel(made, settings, made.classes, made.widths)
