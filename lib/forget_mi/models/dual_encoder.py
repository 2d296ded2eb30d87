"""Both towers of a CLIP-shaped dual encoder."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from forget_mi.errors import InputError
from forget_mi.models.config import ModelConfig
from forget_mi.models.image_text import ImageTextModel
from forget_mi.models.tokenizers import _from_pretrained
from forget_mi.models.towers import Tower, layers_of

if TYPE_CHECKING:
    from transformers import PretrainedConfig


class DualEncoderImage(Tower):
    """The image side of a CLIP-shaped model (CLIP, SigLIP-like, VisionTextDualEncoder): z_img is
    its projected embedding.

    images (batch, 1, height, width), resized to the side that the encoder takes -> (batch, width),
    (batch, classes).
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
            images = nn.functional.interpolate(
                images, size=(self.side, self.side), mode="bilinear", antialias=True
            )
        channels = getattr(self.encoder.config, "num_channels", 3)
        embedding = self.projection(
            _pooled(self.encoder(pixel_values=images.expand(-1, channels, -1, -1)))
        )
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
    """The output of an encoder for the whole input: its pooler's output, or the first position's
    (averaged where a convolutional encoder gives maps)."""
    pooled = getattr(output, "pooler_output", None)
    if pooled is None:
        return output.last_hidden_state[:, 0]
    return pooled.flatten(1) if pooled.ndim > 2 else pooled


def _dual_encoder(
    settings: ModelConfig, classes: int, config: PretrainedConfig | None
) -> ImageTextModel:
    from transformers import AutoModel

    folder = settings.dual_encoder
    both = (
        AutoModel.from_config(config)
        if config is not None
        else _from_pretrained(AutoModel, folder, "dual_encoder")
    )
    parts = ("vision_model", "text_model", "visual_projection", "text_projection")
    missing = [part for part in parts if not hasattr(both, part)]
    if missing:
        raise InputError(
            f"parameter model.dual_encoder = {folder!r}: a {type(both).__name__} has no "
            f"{', '.join(missing)}; allowed are CLIP-shaped models, with both sides and their "
            "projections"
        )
    image, text = (
        kind(both, both.config.projection_dim, classes)
        for kind in (DualEncoderImage, DualEncoderText)
    )
    image, text = (
        (None if settings.towers == "text" else image),
        (None if settings.towers == "image" else text),
    )
    model = ImageTextModel(settings, image, text)
    model.dual_config = both.config
    return model
