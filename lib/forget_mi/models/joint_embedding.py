"""The fixed joint embedding J of the two towers."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from forget_mi.errors import InputError
from forget_mi.models.image_text import ImageTextModel
from forget_mi.models.outputs import Embeddings


class JointEmbedding(nn.Module):
    """J of the paper: a gated multimodal unit (Arevalo et al., 2017) with fixed random weights,

        J(z_img, z_txt) = g * tanh(W_i z_img) + (1 - g) * tanh(W_t z_txt),   g = sigmoid(W_g [z_img;
        z_txt]).

    One instance serves F_og and F_ul and all batches: the weights come from a seed and are never
    trained. (The released code draws new ones at every call, which compares different projections.)
    Inputs and output (batch, width); where a tower is missing, image_width or text_width is 0, and
    so is its term.
    """

    def __init__(
        self, width: int, seed: int, image_width: int | None = None, text_width: int | None = None
    ):
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        image_width, text_width = (
            width if own is None else own for own in (image_width, text_width)
        )
        shapes = {
            "image_weight": image_width,
            "text_weight": text_width,
            "gate_weight": image_width + text_width,
        }
        for name, inputs in shapes.items():
            self.register_buffer(
                name, torch.randn(width, inputs, generator=generator) / max(inputs, 1) ** 0.5
            )

    def forward(self, z: Embeddings) -> Tensor:
        """J(z), (batch, width)."""
        gate = (torch.cat(z, -1) @ self.gate_weight.T).sigmoid()
        image, text = (z.image @ self.image_weight.T).tanh(), (z.text @ self.text_weight.T).tanh()
        return gate * image + (1 - gate) * text


def joint_embedding_of(model: ImageTextModel) -> JointEmbedding:
    """The one joint embedding that goes with a model, whatever its weights.

    Raises InputError where the towers are of different widths.
    """
    image, text = model.widths
    if image and text and image != text:
        raise InputError(
            f"the image embedding is {image} wide and the text embedding {text}: the joint "
            "embedding of Forget-MI and MultiDelete needs one width; project both to a common one "
            "(model.project), or choose a method that does without (held_out_targets, scrub, ...)"
        )
    return JointEmbedding(
        max(image, text), model.settings.joint_seed, image_width=image, text_width=text
    )


def joint_embedding_or_none(model: ImageTextModel) -> JointEmbedding | None:
    """`joint_embedding_of`, or None for towers of different widths: what a measure does that can do
    without."""
    image, text = model.widths
    return joint_embedding_of(model) if image == text or not (image and text) else None
