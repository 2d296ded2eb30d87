"""Estimates of the memory that the paper's model needs on a card, by batch size: no card is asked.

Weights, gradients and AdamW's two moments are counted from the parameters, what the forward pass
keeps for the backward pass from the tensors that it saves on a CPU. Kernels, the allocator and the
driver need some on top; a tenth of the card is left for them.
"""

from __future__ import annotations

import pandas as pd
import torch

from forget_mi.losses import training_loss
from forget_mi.models.build import build_model
from forget_mi.models.config import NAMED, ModelConfig
from forget_mi.models.image_text import ImageTextModel

CARDS = (16, 24, 80)
PIXELS, LEFT_OVER = 2048, 0.9


def paper_model() -> ImageTextModel:
    """The paper's configuration with random weights."""
    settings = ModelConfig(**{**NAMED["paper"].__dict__, "text_pretrained": None})
    return build_model(settings, 4, settings.text_vocabulary, seed=0).train()


def kept_for_backward(model: ImageTextModel, batch: int, bf16: bool) -> int:
    """Bytes of the tensors that a training step of so many records keeps for its backward pass,
    each storage once and the weights not at all."""
    tokens = torch.zeros(batch, model.settings.max_tokens, dtype=torch.long)
    labels = torch.zeros(batch, dtype=torch.long)
    weights = {p.untyped_storage().data_ptr() for p in model.parameters()}
    kept = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage  # alive, so that no address is given out twice
        return tensor

    with (
        torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor),
        torch.autocast("cpu", dtype=torch.bfloat16, enabled=bf16),
    ):
        output = model(torch.zeros(batch, 1, PIXELS, PIXELS), tokens, torch.ones_like(tokens))
        training_loss(output, labels, labels)
    return sum(storage.nbytes() for storage in kept.values())


def table() -> pd.DataFrame:
    """A row a card: the largest batch of a training step, in fp32 and in bf16. Unlearning takes a
    forget and a retain batch in one pass and holds a frozen copy of the weights (4 bytes a
    parameter more)."""
    model = paper_model()
    parameters = sum(p.numel() for p in model.parameters())
    bytes_fixed = 16 * parameters  # weights, gradients and two moments, in fp32 under autocast too
    per_record = {}
    for bf16 in (False, True):
        one, two = (kept_for_backward(model, batch, bf16) for batch in (1, 2))
        per_record[bf16] = two - one
    rows = []
    for card in CARDS:
        room = LEFT_OVER * card * 2**30 - bytes_fixed
        row = {"card": f"{card} GB"}
        for bf16, name in ((False, "fp32"), (True, "bf16")):
            row[f"{name}: largest training batch"] = max(0, int(room // per_record[bf16]))
            row[f"{name}: records an unlearning step"] = max(
                0, int((room - 4 * parameters) // per_record[bf16])
            )
        rows.append(row)
    found = pd.DataFrame(rows)
    found.attrs["facts"] = (
        f"{parameters / 1e6:.0f} M parameters: {bytes_fixed / 2**30:.1f} GB fixed; a record of "
        f"{PIXELS} px and {NAMED['paper'].max_tokens} tokens keeps {per_record[False] / 2**30:.2f} "
        f"GB in fp32, {per_record[True] / 2**30:.2f} GB in bf16"
    )
    return found


if __name__ == "__main__":
    estimates = table()
    print("estimates:", estimates.attrs["facts"])
    print(estimates.to_string(index=False))
