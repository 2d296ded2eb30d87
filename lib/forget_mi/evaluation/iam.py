"""IAM (Wang et al., 2025, arXiv 2506.06112): how far has each record come on the way from fitted to
generalised?"""

from __future__ import annotations

import numpy as np

from forget_mi.attacks import margins, mean_where
from forget_mi.training import Predictions, Shadows, Tower


def completeness(
    unlearned: Predictions, original: Predictions, shadows: Shadows, tower: Tower
) -> np.ndarray:
    """1 - (m_ul - mu_out) / (m_og - mu_out) of each record (n): 0 where F_ul's margin is F_og's, 1
    where it is that of shadow models that never saw the record, above 1 where it lies beyond. NaN
    where F_og is no surer than they are, so that there was nothing to forget.

    An interpolation between the two behaviours, after the paper's; one or a few shadow models are
    enough.
    """
    out = mean_where(np.stack([margins(p, tower) for p in shadows.predictions]), shadows.stranger)
    fitted, now = margins(original, tower) - out, margins(unlearned, tower) - out
    return np.where(fitted > 0, 1 - now / np.where(fitted > 0, fitted, 1), np.nan)
