"""The image-text model: two towers side by side (Chauhan et al., MICCAI 2020: late fusion)."""

from __future__ import annotations

from torch import Tensor, nn

from forget_mi.models.config import ModelConfig
from forget_mi.models.outputs import ModelOutput
from forget_mi.models.towers import Tower


class ImageTextModel(nn.Module):
    """The two towers side by side; they meet in the loss, in the joint embedding and in the fused
    prediction.

    image_tower, text_tower: None for one that is not there. classes: how many there are to tell
    apart. max_tokens: reports are cut there; 0 where none are read.
    """

    def __init__(self, settings: ModelConfig, image_tower: Tower | None, text_tower: Tower | None):
        super().__init__()
        self.settings = settings
        self.image_tower = image_tower
        self.text_tower = text_tower
        self.classes = self.towers()[0].head.out_features
        self.max_tokens = settings.max_tokens if text_tower is not None else 0

    def towers(self) -> list[Tower]:
        """The towers that are there, image first."""
        return [tower for tower in (self.image_tower, self.text_tower) if tower is not None]

    @property
    def is_adapted(self) -> bool:
        """Whether the towers are someone's own networks, given as objects: no params say how they
        are built."""
        return self.settings.factory is None and any(tower.is_adapted for tower in self.towers())

    @property
    def widths(self) -> tuple[int, int]:
        """Of z_img and z_txt; 0 where there is no such tower."""
        return tuple(
            0 if tower is None else tower.width for tower in (self.image_tower, self.text_tower)
        )

    def forward(self, images: Tensor, input_ids: Tensor, attention_mask: Tensor) -> ModelOutput:
        """Both towers' logits and embeddings."""
        nothing = images.new_zeros(
            images.shape[0], 0
        )  # not len(): an export would take it for a constant
        image_embedding, image_logits = (
            (nothing, nothing) if self.image_tower is None else self.image_tower(images)
        )
        text_embedding, text_logits = nothing, nothing
        if self.text_tower is not None:
            text_embedding, text_logits = self.text_tower(input_ids, attention_mask)
        return ModelOutput(image_logits, text_logits, image_embedding, text_embedding)
