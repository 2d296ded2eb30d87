"""Where supreme-unlearning and we mean the same mathematics: the same weights after a step, on a
small image model. Runs in that peer's environment; prints one JSON object, by method how far the
two ends lie apart and how far ours moved (largest absolute differences of a weight).

SSD is compared with its `ssd_det`, the squared gradient record by record, as the paper has it.
"""

from __future__ import annotations

import contextlib
import io
import json
from typing import Any

import torch
from method import PeerMethod
from supreme_peer import METHODS

from forget_mi.config import build
from forget_mi.data import Examples
from forget_mi.models import ImageTextModel, ModelConfig, build_model
from forget_mi.training import make_accelerator
from forget_mi.unlearning import UnlearningData, get_method

CLASSES, SEED = 3, 5
# One step each, on whole sets. No decay of weights (theirs is Adam's, ours AdamW's), no clipping;
# batch normalisation by the batch, as in their code.
STEP = {"batch_size": 64, "clip": 1e9, "batch_norm": "train", "epochs": 1}
CASES: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "ssd": (
        "ssd_det",
        {"alpha": 1.5, "dampening": 0.7, "batch_size": 1, "records": 1000},
        {"selection_weighting": 1.5, "dampening_constant": 0.7},
    ),
    "scrub": (
        "scrub",
        {**STEP, "learning_rate": 1e-3, "retain_batch": 64, "temperature": 2.0, "max_epochs": 1},
        {
            "sgda_learning_rate": 1e-3,
            "sgda_epochs": 1,
            "msteps": 1,
            "smoothing": 0.0,
            "sgda_weight_decay": 0.0,
        },
    ),
    "bad_teacher": ("bad_teacher", {**STEP, "learning_rate": 1e-4, "retain_batch": 6}, {}),
}


def small_case() -> tuple[ImageTextModel, UnlearningData]:
    """A model with an image tower, and 8, 20 and 6 records. The retained ones are alike: their
    Bad Teacher takes a random 30 % of them, ours draws along as many as it is told."""
    generator = torch.Generator().manual_seed(SEED)

    def records(n: int, alike: bool = False) -> Examples:
        images = torch.randint(256, (n, 1, 32, 32), generator=generator).to(torch.uint8)
        labels = torch.arange(n) % CLASSES
        if alike:
            images, labels = images[:1].repeat(n, 1, 1, 1), labels[:1].repeat(n)
        return Examples.from_tensors(images, labels)

    settings = ModelConfig(towers="image", image_channels=(4, 8), image_stem_stride=1)
    model = build_model(settings, CLASSES, 0, SEED)
    return model, UnlearningData(records(8), records(20, alike=True), records(6))


def difference(a: ImageTextModel, b: ImageTextModel) -> float:
    """Largest absolute difference of a weight."""
    pairs = zip(a.parameters(), b.parameters(), strict=True)
    with torch.no_grad():
        return max(float((p - q).abs().max()) for p, q in pairs)


def share_apart(a: ImageTextModel, b: ImageTextModel, more_than: float) -> float:
    """Share of the weights that lie further apart."""
    pairs = zip(a.parameters(), b.parameters(), strict=True)
    with torch.no_grad():
        return float(
            torch.cat([((p - q).abs() > more_than).flatten() for p, q in pairs]).float().mean()
        )


def compare(name: str) -> dict[str, float]:
    """apart: theirs from ours; moved: ours from F_og; share_apart: of the weights that lie further
    apart than a thousandth of that (SSD dampens what is above a threshold: a weight that stands on
    it falls to either side by rounding)."""
    theirs, own_settings, their_settings = CASES[name]
    model, data = small_case()
    how = {"seed": SEED, "accelerator": make_accelerator()}
    module = get_method(name)
    ours, _ = module.unlearn(
        model, data, build(module.Config, own_settings, name), progress=False, **how
    )
    known = next(m for m in METHODS if m.name == theirs)
    peer = PeerMethod(theirs, known.call, their_settings)
    with contextlib.redirect_stdout(io.StringIO()):
        found, _ = peer.unlearn(model, data, build(peer.Config, their_settings, theirs), **how)
    moved = difference(ours.cpu(), model)
    return {
        "apart": difference(found, ours.cpu()),
        "moved": moved,
        "share_apart": share_apart(found, ours.cpu(), moved / 1000),
    }


if __name__ == "__main__":
    print(json.dumps({name: compare(name) for name in CASES}))
