"""Towers: what turns an image or a report into an embedding z and, linear in it, logits."""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import Tensor, nn


class Tower(nn.Module):
    """A network whose forward gives (z, logits), (batch, width) and (batch, classes), the logits
    those of `head`(z)."""

    head: nn.Linear
    faster_channels_last = False  # on a CPU
    is_adapted = False  # somebody's own network, given as an object

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
            nn.Sequential(
                _residual_block(before, after, stride=2), _residual_block(after, after, stride=1)
            )
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


def to_group_norm(network: nn.Module) -> None:
    """Put, in place, group normalisation (32 groups, or as many as divide the channels) where there
    is batch normalisation of images; its weights start anew."""
    for module in list(network.modules()):
        for name, child in module.named_children():
            if isinstance(child, nn.BatchNorm2d):
                groups = math.gcd(32, child.num_features)
                setattr(module, name, nn.GroupNorm(groups, child.num_features))


def _residual_block(before: int, after: int, stride: int) -> nn.Module:
    from torchvision.models.resnet import BasicBlock  # more than a second to import

    downsample = None
    if stride != 1 or before != after:
        downsample = nn.Sequential(
            nn.Conv2d(before, after, 1, stride, bias=False), nn.BatchNorm2d(after)
        )
    return BasicBlock(before, after, stride, downsample)


class TextTower(Tower):
    """A BERT-like encoder; gives z_txt (the pooled [CLS], after dropout) and its logits. Of a
    BERT's last layer only that position is computed.

    input_ids, attention_mask (batch, tokens) -> (batch, width), (batch, classes).
    """

    def __init__(self, encoder: nn.Module, dropout: float, classes: int):
        super().__init__()
        if getattr(encoder.config, "model_type", "") == "bert":
            from forget_mi.models.bert import (
                read_first_token_only,  # BERT takes more than a second to import
            )

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
        if self._takes_mask_by_query():
            # Of (batch, tokens) the library asks on the host whether anything is masked, and the
            # device is waited for.
            tokens = attention_mask.shape[1]
            attention_mask = attention_mask.bool()[:, None, None].expand(-1, -1, tokens, -1)
        output = self.encoder(input_ids=input_ids, attention_mask=attention_mask)
        pooled = getattr(output, "pooler_output", None)
        embedding = self.dropout(output.last_hidden_state[:, 0] if pooled is None else pooled)
        return embedding, self.head(embedding)

    def _takes_mask_by_query(self) -> bool:
        """Whether the encoder hands (batch, 1, queries, keys), bool, to its layers as it is."""
        config = self.encoder.config
        return (
            getattr(config, "model_type", "") == "bert"
            and getattr(config, "_attn_implementation", "") == "sdpa"
            and not getattr(config, "is_decoder", False)
        )


class ProjectedTower(Tower):
    """A tower of any width whose embedding is projected to another width: z is the projection, and
    the logits are linear in it. Towers of different widths meet so in the ranking loss and in the
    joint embedding.

    inputs of the tower -> (batch, width), (batch, classes).
    """

    def __init__(self, tower: Tower, width: int, classes: int):
        super().__init__()
        self.projection = nn.Linear(tower.width, width)
        self.head = nn.Linear(width, classes)
        self.tower = tower
        self.tower.head = nn.Identity()  # its place is after the projection

    @property
    def encoder(self) -> nn.Module | None:
        """The text encoder inside, where there is one."""
        return getattr(self.tower, "encoder", None)

    @property
    def faster_channels_last(self) -> bool:
        """As the tower inside."""
        return self.tower.faster_channels_last

    def blocks(self) -> list[nn.Module]:
        """Of the tower inside."""
        return self.tower.blocks()

    def after_blocks(self) -> list[nn.Module]:
        """What lies after its blocks, and the projection."""
        return [*self.tower.after_blocks(), self.projection]

    def forward(self, *inputs: Tensor) -> tuple[Tensor, Tensor]:
        """The projected z and its logits."""
        embedding = self.projection(self.tower(*inputs)[0])
        return embedding, self.head(embedding)


def layers_of(encoder: nn.Module) -> list[nn.Module]:
    """The layers of a transformer in order: its longest list of modules."""
    return list(
        max((m for m in encoder.modules() if isinstance(m, nn.ModuleList)), key=len, default=[])
    )
