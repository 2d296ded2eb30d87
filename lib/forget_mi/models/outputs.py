"""What a model returns: logits and embeddings of each tower, and the fused prediction."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Embeddings(NamedTuple):
    """z_img and z_txt of a batch, each (batch, width); (batch, 0) where there is no such tower."""

    image: Tensor
    text: Tensor

    @property
    def are_paired(self) -> bool:
        """Whether both towers are there, and as wide as each other: what an image's report is to it
        can then be asked."""
        return self.image.shape[-1] == self.text.shape[-1] > 0


class ModelOutput(NamedTuple):
    """image_logits, text_logits: (batch, classes). image_embedding, text_embedding: (batch, width),
    the paper's z_img and z_txt; the logits are linear in them. Where there is no such tower, its
    logits and embedding are (batch, 0)."""

    image_logits: Tensor
    text_logits: Tensor
    image_embedding: Tensor
    text_embedding: Tensor

    @property
    def embeddings(self) -> Embeddings:
        """z_img and z_txt."""
        return Embeddings(self.image_embedding, self.text_embedding)

    @property
    def logits(self) -> list[Tensor]:
        """The logits of the towers that are there."""
        return [logits for logits in (self.image_logits, self.text_logits) if logits.shape[-1]]


def fused_probabilities(image_logits: Tensor, text_logits: Tensor) -> Tensor:
    """The fused prediction (batch, classes): the mean of the two towers' softmaxes; one tower's
    where the other's logits are (batch, 0)."""
    if image_logits.shape[-1] == 0 or text_logits.shape[-1] == 0:
        return torch.cat([image_logits, text_logits], -1).softmax(-1)
    return (image_logits.softmax(-1) + text_logits.softmax(-1)) / 2
