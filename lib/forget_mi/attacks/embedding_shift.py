"""Embedding shift: whose place has unlearning changed?"""

from __future__ import annotations

import numpy as np
import torch

from forget_mi.attacks.base import Evidence, Scores
from forget_mi.attacks.linear_probe import embedding
from forget_mi.models import Embeddings, JointEmbedding
from forget_mi.training import Predictions, Tower


def attack(evidence: Evidence, tower: Tower) -> Scores:
    """score(x) = -||z_F(x) - z_og(x)||, one tower's embedding under the model at hand and under the
    original; for the fused prediction both are taken through the fixed joint embedding J.

    For whoever has both models, as after an update of a deployed one: records that moved more than
    strangers did were forgotten, records that stayed were not touched. A retrained model's
    embeddings have no reason to lie near the original's, for anyone, so the score means something
    beside a retrained model only. Costs nothing beyond the predictions.
    """
    return Scores(
        *(
            -np.linalg.norm(
                _place(getattr(evidence, side), evidence.joint, tower)
                - _place(evidence.original[side], evidence.joint, tower),
                axis=-1,
            )
            for side in ("forget", "test")
        )
    )


def joint_embedding(predictions: Predictions, joint: JointEmbedding | None) -> np.ndarray:
    """J(z_img, z_txt) of each record, (n, width); both side by side where there is no J."""
    both = (predictions.image_embedding, predictions.text_embedding)
    if joint is None:
        return np.concatenate(both, -1).astype(np.float64)
    with torch.no_grad():
        return (
            joint.cpu()(Embeddings(*(torch.from_numpy(z.astype(np.float32)) for z in both)))
            .double()
            .numpy()
        )


def _place(predictions: Predictions, joint: JointEmbedding, tower: Tower) -> np.ndarray:
    return (
        joint_embedding(predictions, joint) if tower == "fused" else embedding(predictions, tower)
    )
