"""Representations: how do a model's embeddings differ from a retrained model's?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from forget_mi.attacks import embedding
from forget_mi.evaluation.audit import ModelAudit


def linear_cka(x: np.ndarray, y: np.ndarray) -> float:
    """Linear centred kernel alignment of two models' embeddings (n, p) and (n, q) of the same
    records, 0 to 1: ||Y'X||^2 / (||X'X|| ||Y'Y||), columns centred (Kornblith et al., 2019, arXiv
    1905.00414, equation 5)."""
    x, y = x - x.mean(0), y - y.mean(0)
    scale = np.linalg.norm(x.T @ x) * np.linalg.norm(y.T @ y)
    return float(np.linalg.norm(y.T @ x) ** 2 / scale) if scale > 0 else float("nan")


def representation_table(
    audits: Mapping[str, ModelAudit], references: Sequence[str]
) -> pd.DataFrame:
    """A row a model, reference, tower and set (forget, test): linear CKA of their embeddings."""
    rows = []
    for name, audit in audits.items():
        for other in [r for r in references if r != name]:
            for tower in audit.predictions["forget"].towers:
                for side in ("forget", "test"):
                    pair = [embedding(a.predictions[side], tower) for a in (audit, audits[other])]
                    about = {"model": name, "reference": other, "tower": tower, "set": side}
                    rows.append(about | {"cka": linear_cka(*pair)})
    return pd.DataFrame(rows)
