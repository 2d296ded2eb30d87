"""Image towers from networks of torchvision and timm, by name."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from forget_mi.errors import InputError, import_extra
from forget_mi.models.packaged import PACKAGE, packaged_image_weights
from forget_mi.models.state_dicts import load_weights, read_state_dict
from forget_mi.models.towers import Tower

# Mean and standard deviation by channel.
Normalisation = tuple[Sequence[float], Sequence[float]]

# Of the images that most published image networks were trained on.
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


class NetworkTower(Tower):
    """An image network of torchvision or timm without its output layer, and a new one.

    cut: the name that the old output layer had. channels: that the network takes; one-channel
    images are repeated for three. mean, std: by which images in [0, 1] are normalised; part of the
    weights. images (batch, 1, height, width) -> (batch, width), (batch, classes)."""

    def __init__(self, network: nn.Module, cut: str, width: int, channels: int, classes: int):
        super().__init__()
        self.network, self.cut = network, cut
        self.head = nn.Linear(width, classes)
        self.channels = channels
        self.register_buffer("mean", torch.zeros(1, channels, 1, 1))
        self.register_buffer("std", torch.ones(1, channels, 1, 1))

    def blocks(self) -> list[nn.Module]:
        """The network's parts in order, as it lists them: the blocks of its stages where they are
        sequences."""
        parts = [part for part in self.network.children() if any(True for _ in part.parameters())]
        while len(parts) == 1 and list(parts[0].children()):
            parts = list(parts[0].children())
        blocks = [
            b for part in parts for b in (part if isinstance(part, nn.Sequential) else [part])
        ]
        return [block for block in blocks if any(True for _ in block.parameters())]

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """z_img and its logits."""
        embedding = self.network((images.expand(-1, self.channels, -1, -1) - self.mean) / self.std)
        return embedding, self.head(embedding)


def network_tower(
    name: str, classes: int, channels: int = 3, weights: str | None = None
) -> NetworkTower:
    """An image tower from 'torchvision:NAME' or 'timm:NAME'.

    channels: 1 or 3; with 1 the first convolution's weights are summed over its inputs. weights: a
    local file with the network's state dict (.safetensors, or .pth read without running code), as
    its library publishes it, or 'package:NAME' of one that an installed package carries (see
    `packaged`); images are then normalised as the network's library says. An output layer in it is
    taken over where it tells as many classes apart.

    Raises InputError for an unknown name, a missing file or package (which one to get, and where it
    is published), and weights that do not fit (key, both shapes).
    """
    library, _, kind = name.partition(":")
    if library not in NETWORKS or not kind:
        raise InputError(
            f"parameter model.image_network = {name!r}: allowed are torchvision:NAME and "
            "timm:NAME, such as torchvision:resnet18"
        )
    network, published, normalisation = NETWORKS[library](kind, name)
    state = None if weights is None else _image_weights(weights, name, published, network)
    head_name, width = _cut_head(network)
    tower = NetworkTower(network, head_name, width, channels, classes)
    if state is not None:
        for buffer, values in zip((tower.mean, tower.std), normalisation, strict=True):
            values = torch.tensor(values).reshape(1, -1, 1, 1)
            buffer.copy_(values if channels == 3 else values.mean())
        # A second output layer (distilled networks have one) is of no use here.
        names = tuple(f"{name}." for name in (head_name, f"{head_name}_dist"))
        head = {
            key.removeprefix(names[0]): state.pop(key)
            for key in list(state)
            if key.startswith(names)
        }
        load_weights(network, state, weights)
        if len(head.get("bias", ())) == classes and head["weight"].flatten(1).shape[1] == width:
            tower.head.load_state_dict({"weight": head["weight"].flatten(1), "bias": head["bias"]})
    if channels == 1:
        _take_one_channel(network)
    return tower


def _torchvision(kind: str, name: str) -> tuple[nn.Module, str, Normalisation]:
    from torchvision import models

    known = models.list_models(module=models)
    if kind not in known:
        raise InputError(
            f"parameter model.image_network = {name!r}: torchvision has {', '.join(known)}"
        )
    # The side branches of the Inception family are trained beside the network, and answer with more
    # than logits.
    extra = (
        {"aux_logits": False, "init_weights": True} if kind in ("googlenet", "inception_v3") else {}
    )
    published = models.get_model_weights(kind).DEFAULT.url
    return models.get_model(kind, weights=None, **extra), published, IMAGENET


def _timm(kind: str, name: str) -> tuple[nn.Module, str, Normalisation]:
    timm = import_extra("timm", "models")
    if not timm.is_model(kind):
        near = timm.list_models(f"*{kind[:6]}*")[:8]
        raise InputError(
            f"parameter model.image_network = {name!r}: timm knows no such network; near are {near}"
        )
    network = timm.create_model(kind, pretrained=False)
    about = network.pretrained_cfg
    published = about.get("url") or f"https://huggingface.co/timm/{kind}"
    return network, published, (about.get("mean", IMAGENET[0]), about.get("std", IMAGENET[1]))


NETWORKS = {"torchvision": _torchvision, "timm": _timm}


def _cut_head(network: nn.Module) -> tuple[str, int]:
    """Put nothing in place of the output layer; return its name and the width of what went in."""
    if hasattr(network, "reset_classifier"):  # timm's own way, also for networks with two of them
        names = network.default_cfg["classifier"]
        network.reset_classifier(0)
        width = getattr(network, "head_hidden_size", None) or network.num_features
        return names if isinstance(names, str) else names[0], width
    layers = [(n, m) for n, m in network.named_modules() if isinstance(m, (nn.Linear, nn.Conv2d))]
    linear = [(n, m) for n, m in layers if isinstance(m, nn.Linear)]
    # SqueezeNet ends in a convolution.
    name, last = linear[-1] if linear and layers[-1][1] is linear[-1][1] else layers[-1]
    parent, _, own = name.rpartition(".")
    setattr(network.get_submodule(parent), own, nn.Identity())
    return name, last.in_features if isinstance(last, nn.Linear) else last.in_channels


def _take_one_channel(network: nn.Module) -> None:
    name, first = next((n, m) for n, m in network.named_modules() if isinstance(m, nn.Conv2d))
    shape = (first.out_channels, first.kernel_size, first.stride, first.padding, first.dilation)
    new = nn.Conv2d(1, *shape, bias=first.bias is not None, padding_mode=first.padding_mode)
    with torch.no_grad():
        new.weight.copy_(first.weight.sum(1, keepdim=True))
        if first.bias is not None:
            new.bias.copy_(first.bias)
    parent, _, own = name.rpartition(".")
    setattr(network.get_submodule(parent), own, new)


def _image_weights(path: str, name: str, published: str, network: nn.Module) -> dict[str, Tensor]:
    if path.startswith(PACKAGE):
        return packaged_image_weights(path, name, network)
    if not Path(path).is_file():
        raise InputError(
            f"parameter model.image_weights = {path!r}: there is no such file; get {published} "
            f"({name}), and give its path here: nothing is downloaded"
        )
    return read_state_dict(path)
