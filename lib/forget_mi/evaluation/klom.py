"""KLOM (Georgiev et al., ICLR 2025, arXiv 2410.23232; the measure of the Easy Data Unlearning
Bench, arXiv 2602.16400): how far apart are the distributions of a record's margin over many
unlearned and many retrained models?"""

from __future__ import annotations

import numpy as np

CLIP, BINS, FLOOR = 100.0, 20, 1e-5


def klom(unlearned: np.ndarray, retrained: np.ndarray) -> np.ndarray:
    """KL(unlearned || retrained) of each record (n), in nats, from margins (models, n) of each kind
    by histogram: margins clipped at +-CLIP, BINS equal bins over the range of both, the retrained
    models' shares floored at FLOOR.

    With few models it is far above zero for retrained against retrained too: give that floor beside
    it, with as many models. Where all margins are equal, 0.
    """
    unlearned, retrained = (
        np.clip(np.asarray(m, float), -CLIP, CLIP) for m in (unlearned, retrained)
    )
    found = np.zeros(unlearned.shape[1])
    for record, (ours, theirs) in enumerate(zip(unlearned.T, retrained.T, strict=True)):
        low, high = min(ours.min(), theirs.min()), max(ours.max(), theirs.max())
        if low == high:
            continue
        p, q = (np.histogram(m, bins=BINS, range=(low, high))[0] / len(m) for m in (ours, theirs))
        seen = p > 0
        found[record] = float((p[seen] * np.log(p[seen] / np.maximum(q[seen], FLOOR))).sum())
    return found
