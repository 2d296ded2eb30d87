"""Numbers that papers report, to stand beside ours: from other cohorts, never to be mixed with
them."""

from __future__ import annotations

import pandas as pd

COLUMNS = ["request", "model", "SVC attack", "forget AUC", "forget F1", "test AUC", "test F1"]


def forget_mi_paper() -> pd.DataFrame:
    """The table of Forget-MI (arXiv 2506.23145): image tower, its MIMIC-CXR split, requests of 201,
    401 and 674 images. Read from a third party's copy: check against the paper before quoting."""
    rows = [
        ("3%", "Original", 1.000, 0.999, 0.965, 0.677, 0.388),
        ("3%", "Retrained", 0.000, 0.566, 0.310, 0.626, 0.362),
        ("3%", "Forget-MI", 0.571, 0.735, 0.393, 0.625, 0.250),
        ("6%", "Forget-MI", 0.615, 0.654, 0.328, 0.599, 0.270),
        ("10%", "Forget-MI", 0.810, 0.656, 0.313, 0.565, 0.252),
    ]
    return pd.DataFrame(rows, columns=COLUMNS).set_index(["request", "model"])
