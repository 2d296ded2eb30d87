"""Towers: what turns an image or a report into an embedding z and, linear in it, logits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from forget_mi.errors import InputError

# Of the images that most published image networks were trained on.
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


class Tower(nn.Module):
    """A network whose forward gives (z, logits), (batch, width) and (batch, classes), the logits those of `head`(z)."""

    head: nn.Linear
    faster_channels_last = False  # on a CPU

    @property
    def width(self) -> int:
        """Of z."""
        return self.head.in_features

    def blocks(self) -> list[nn.Module]:
        """Its layers in order, input to output; empty where they can't be told apart."""
        return []

    def after_blocks(self) -> list[nn.Module]:
        """What lies between the last block and the head."""
        return []


class ImageTower(Tower):
    """A residual network for one-channel images in [0, 1]; gives z_img and its logits.

    images (batch, 1, height, width) -> (batch, width), (batch, classes).
    """

    faster_channels_last = True

    def __init__(self, channels: Sequence[int], stem_stride: int, pool: int, classes: int):
        super().__init__()
        stem, *stages = channels
        self.conv1 = nn.Conv2d(1, stem, kernel_size=7, stride=stem_stride, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(stem)
        widths = [stem, *stages]
        self.stages = nn.ModuleList(
            nn.Sequential(_residual_block(before, after, stride=2), _residual_block(after, after, stride=1))
            for before, after in zip(widths, stages, strict=False)
        )
        self.pool = nn.AdaptiveAvgPool2d(pool)
        self.head = nn.Linear(stages[-1] * pool**2, classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def blocks(self) -> list[nn.Module]:
        """The residual blocks."""
        return [block for stage in self.stages for block in stage]

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """z_img and its logits."""
        features = self.bn1(self.conv1(images)).relu()
        for stage in self.stages:
            features = stage(features)
        embedding = self.pool(features).flatten(1)
        return embedding, self.head(embedding)


def _residual_block(before: int, after: int, stride: int) -> nn.Module:
    from torchvision.models.resnet import BasicBlock  # more than a second to import

    downsample = None
    if stride != 1 or before != after:
        downsample = nn.Sequential(nn.Conv2d(before, after, 1, stride, bias=False), nn.BatchNorm2d(after))
    return BasicBlock(before, after, stride, downsample)


class TextTower(Tower):
    """A BERT-like encoder; gives z_txt (the pooled [CLS], after dropout) and its logits. Of a BERT's last layer only
    that position is computed.

    input_ids, attention_mask (batch, tokens) -> (batch, width), (batch, classes).
    """

    def __init__(self, encoder: nn.Module, dropout: float, classes: int):
        super().__init__()
        if getattr(encoder.config, "model_type", "") == "bert":
            from forget_mi.bert import read_first_token_only  # BERT takes more than a second to import

            read_first_token_only(encoder)
        self.encoder = encoder
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(encoder.config.hidden_size, classes)

    def blocks(self) -> list[nn.Module]:
        """The encoder's layers; none where they can't be found."""
        return layers_of(self.encoder)

    def after_blocks(self) -> list[nn.Module]:
        """The pooler."""
        pooler = getattr(self.encoder, "pooler", None)
        return [] if pooler is None else [pooler]

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> tuple[Tensor, Tensor]:
        """z_txt and its logits."""
        output = self.encoder(input_ids=input_ids, attention_mask=attention_mask)
        pooled = getattr(output, "pooler_output", None)
        embedding = self.dropout(output.last_hidden_state[:, 0] if pooled is None else pooled)
        return embedding, self.head(embedding)


def layers_of(encoder: nn.Module) -> list[nn.Module]:
    """The layers of a transformer in order: its longest list of modules."""
    return list(max((m for m in encoder.modules() if isinstance(m, nn.ModuleList)), key=len, default=[]))


# ---- image networks by name ------------------------------------------------------------------------------------------


class NetworkTower(Tower):
    """An image network of torchvision or timm without its output layer, and a new one.

    cut: the name that the old output layer had. channels: that the network takes; one-channel images are repeated for
    three. mean, std: by which images in [0, 1] are normalised; part of the weights. images (batch, 1, height, width) ->
    (batch, width), (batch, classes)."""

    def __init__(self, network: nn.Module, cut: str, width: int, channels: int, classes: int):
        super().__init__()
        self.network, self.cut = network, cut
        self.head = nn.Linear(width, classes)
        self.channels = channels
        self.register_buffer("mean", torch.zeros(1, channels, 1, 1))
        self.register_buffer("std", torch.ones(1, channels, 1, 1))

    def blocks(self) -> list[nn.Module]:
        """The network's parts in order, as it lists them: the blocks of its stages where they are sequences."""
        parts = [part for part in self.network.children() if any(True for _ in part.parameters())]
        while len(parts) == 1 and list(parts[0].children()):
            parts = list(parts[0].children())
        blocks = [b for part in parts for b in (part if isinstance(part, nn.Sequential) else [part])]
        return [block for block in blocks if any(True for _ in block.parameters())]

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """z_img and its logits."""
        embedding = self.network((images.expand(-1, self.channels, -1, -1) - self.mean) / self.std)
        return embedding, self.head(embedding)


def network_tower(name: str, classes: int, channels: int = 3, weights: str | None = None) -> NetworkTower:
    """An image tower from 'torchvision:NAME' or 'timm:NAME'.

    channels: 1 or 3; with 1 the first convolution's weights are summed over its inputs. weights: a local file with the
    network's state dict (.safetensors, or .pth read without running code), as its library publishes it; images are then
    normalised as ImageNet's are. An output layer in it is taken over where it tells as many classes apart.

    Raises InputError for an unknown name, a missing file (which one to get, and where it is published), and weights
    that do not fit (key, both shapes).
    """
    library, _, kind = name.partition(":")
    if library not in NETWORKS or not kind:
        raise InputError(
            f"parameter model.image_network = {name!r}: allowed are torchvision:NAME and timm:NAME, such as "
            "torchvision:resnet18"
        )
    network, published = NETWORKS[library](kind, name)
    state = None if weights is None else _image_weights(weights, name, published)
    head_name, width = _cut_head(network)
    tower = NetworkTower(network, head_name, width, channels, classes)
    if state is not None:
        for buffer, values in zip((tower.mean, tower.std), IMAGENET, strict=True):
            values = torch.tensor(values).reshape(1, -1, 1, 1)
            buffer.copy_(values if channels == 3 else values.mean())
        # A second output layer (distilled networks have one) is of no use here.
        names = tuple(f"{name}." for name in (head_name, f"{head_name}_dist"))
        head = {key.removeprefix(names[0]): state.pop(key) for key in list(state) if key.startswith(names)}
        load_weights(network, state, weights)
        if len(head.get("bias", ())) == classes and head["weight"].flatten(1).shape[1] == width:
            tower.head.load_state_dict({"weight": head["weight"].flatten(1), "bias": head["bias"]})
    if channels == 1:
        _take_one_channel(network)
    return tower


def _torchvision(kind: str, name: str) -> tuple[nn.Module, str]:
    from torchvision import models

    known = models.list_models(module=models)
    if kind not in known:
        raise InputError(f"parameter model.image_network = {name!r}: torchvision has {', '.join(known)}")
    # The side branches of the Inception family are trained beside the network, and answer with more than logits.
    extra = {"aux_logits": False, "init_weights": True} if kind in ("googlenet", "inception_v3") else {}
    return models.get_model(kind, weights=None, **extra), models.get_model_weights(kind).DEFAULT.url


def _timm(kind: str, name: str) -> tuple[nn.Module, str]:
    try:
        import timm
    except ModuleNotFoundError:
        raise InputError(f"parameter model.image_network = {name!r}: needs timm; pip install timm") from None
    if not timm.is_model(kind):
        near = timm.list_models(f"*{kind[:6]}*")[:8]
        raise InputError(f"parameter model.image_network = {name!r}: timm knows no such network; near are {near}")
    network = timm.create_model(kind, pretrained=False)
    return network, network.pretrained_cfg.get("url") or f"https://huggingface.co/timm/{kind}"


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


def _image_weights(path: str, name: str, published: str) -> dict[str, Tensor]:
    if not Path(path).is_file():
        raise InputError(
            f"parameter model.image_weights = {path!r}: there is no such file; get {published} ({name}), and give its "
            "path here: nothing is downloaded"
        )
    return read_state_dict(path)


# ---- both towers of a dual encoder -----------------------------------------------------------------------------------


class DualEncoderImage(Tower):
    """The image side of a CLIP-shaped model (CLIP, SigLIP-like, VisionTextDualEncoder): z_img is its projected
    embedding.

    images (batch, 1, height, width), resized to the side that the encoder takes -> (batch, width), (batch, classes).
    """

    def __init__(self, model: nn.Module, width: int, classes: int):
        super().__init__()
        self.encoder, self.projection = model.vision_model, model.visual_projection
        self.head = nn.Linear(width, classes)
        self.side = getattr(self.encoder.config, "image_size", None)

    def blocks(self) -> list[nn.Module]:
        """The encoder's layers."""
        return layers_of(self.encoder)

    def after_blocks(self) -> list[nn.Module]:
        """The projection."""
        return [self.projection]

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """z_img and its logits."""
        if self.side is not None and tuple(images.shape[-2:]) != (self.side, self.side):
            images = nn.functional.interpolate(images, size=(self.side, self.side), mode="bilinear", antialias=True)
        channels = getattr(self.encoder.config, "num_channels", 3)
        embedding = self.projection(_pooled(self.encoder(pixel_values=images.expand(-1, channels, -1, -1))))
        return embedding, self.head(embedding)


class DualEncoderText(Tower):
    """The text side; z_txt is its projected embedding.

    input_ids, attention_mask (batch, tokens) -> (batch, width), (batch, classes).
    """

    def __init__(self, model: nn.Module, width: int, classes: int):
        super().__init__()
        self.encoder, self.projection = model.text_model, model.text_projection
        self.head = nn.Linear(width, classes)

    blocks = DualEncoderImage.blocks
    after_blocks = DualEncoderImage.after_blocks

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> tuple[Tensor, Tensor]:
        """z_txt and its logits."""
        output = self.encoder(input_ids=input_ids, attention_mask=attention_mask)
        embedding = self.projection(_pooled(output))
        return embedding, self.head(embedding)


def _pooled(output: Any) -> Tensor:
    """What an encoder says of the whole input: its pooler's output, or the first position's (averaged where a
    convolutional encoder gives maps)."""
    pooled = getattr(output, "pooler_output", None)
    if pooled is None:
        return output.last_hidden_state[:, 0]
    return pooled.flatten(1) if pooled.ndim > 2 else pooled


# ---- any network that gives logits -----------------------------------------------------------------------------------


class AdaptedTower(Tower):
    """Someone's own network, left as it is: its logits, and as z what goes into its last linear layer.

    head: the name of that layer in the network; by default the last nn.Linear that it lists.
    Inputs as they come, or as `prepare` makes them -> (batch, width), (batch, classes).

    Raises InputError where there is no such layer.
    """

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
        sequences = [m for m in self.network.modules() if isinstance(m, (nn.ModuleList, nn.Sequential))]
        return [b for b in max(sequences, key=len, default=[]) if b is not self.head]

    def forward(self, *inputs: Tensor) -> tuple[Tensor, Tensor]:
        """z and its logits."""
        # For this call only: a hook that stays would be copied with the model, and see the copy's original.
        seen = []
        handle = self.head.register_forward_pre_hook(lambda module, arguments: seen.append(arguments[0]))
        try:
            output = self.network(*self.prepare(*inputs))
        finally:
            handle.remove()
        logits = getattr(output, "logits", output)
        if not seen or not isinstance(logits, Tensor):
            raise InputError(
                f"{type(self.network).__name__}: gives {type(output).__name__}, and {self.head_name} was "
                f"{'used' if seen else 'not used'}; a tower must give its logits (batch, classes), or have them as "
                ".logits, from that layer"
            )
        return seen[-1], logits

    def prepare(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """What the network is called with."""
        return inputs


class AdaptedImage(AdaptedTower):
    """Someone's image network. channels: that it takes; one-channel images are repeated. mean, std: by which images in
    [0, 1] are normalised before, a number or one a channel."""

    def __init__(self, network: nn.Module, head: str | None = None, channels: int | None = None, mean=0.0, std=1.0):
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


# ---- weights ---------------------------------------------------------------------------------------------------------


def read_state_dict(path: str | Path) -> dict[str, Tensor]:
    """The tensors in a .safetensors file, or in a pickle that torch reads without running code (weights_only).

    Raises InputError for a file that is missing, cut short, or would run code.
    """
    import pickle

    from safetensors import SafetensorError
    from safetensors.torch import load_file

    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path}: there is no such file of weights")
    try:
        state = load_file(path) if path.suffix == ".safetensors" else torch.load(path, "cpu", weights_only=True)
    except SafetensorError as error:
        raise InputError(f"{path}: is no whole safetensors file ({error}; {path.stat().st_size} bytes)") from None
    except pickle.UnpicklingError as error:
        reason = " ".join(str(error).split())
        raise InputError(f"{path}: is refused, since reading it would run code of its own ({reason[:160]})") from None
    except (RuntimeError, EOFError, ValueError, OSError, KeyError) as error:
        reason = " ".join(str(error).split())
        raise InputError(f"{path}: can't be read ({reason[:160]}; {path.stat().st_size} bytes)") from None
    for key in ("state_dict", "model"):
        if isinstance(state, Mapping) and isinstance(state.get(key), Mapping):
            state = state[key]
    if not isinstance(state, Mapping) or not all(isinstance(value, Tensor) for value in state.values()):
        raise InputError(f"{path}: holds no state dict (names to tensors) but {type(state).__name__}")
    return dict(state)


def load_weights(module: nn.Module, state: Mapping[str, Tensor], source: str | Path) -> None:
    """Put a state dict into a module, all of it.

    Raises InputError that names the first key that is missing, unknown or of another shape (both shapes).
    """
    own = module.state_dict()
    for key, tensor in state.items():
        if key in own and own[key].shape != tensor.shape:
            raise InputError(f"{source}: {key} has shape {tuple(tensor.shape)}, the model's is {tuple(own[key].shape)}")
    missing = [key for key in own if key not in state and not key.endswith("num_batches_tracked")]
    unknown = [key for key in state if key not in own]
    if missing or unknown:
        raise InputError(
            f"{source}: does not fit {type(module).__name__}: "
            + "; ".join(f"{len(keys)} {what}, such as {keys[0]}" for keys, what in
                        ((missing, "of its tensors are missing"), (unknown, "tensors are unknown to it")) if keys)
        )  # fmt: skip
    module.load_state_dict(dict(state), strict=False)
