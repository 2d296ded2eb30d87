"""Measures of predictions as plain functions of arrays: AUC and F1."""

from __future__ import annotations

import numpy as np


def binary_auc(positives: np.ndarray, negatives: np.ndarray) -> float:
    """ROC AUC: the chance that a positive scores above a negative, ties counting one half
    (Mann-Whitney U; equal to scikit-learn's roc_auc_score, and fast enough to be bootstrapped). NaN
    where either is empty, or a score is NaN."""
    n, m = len(positives), len(negatives)
    negatives = np.sort(negatives)
    if n == 0 or m == 0 or np.isnan(negatives[-1]) or np.isnan(positives).any():
        return float("nan")
    below, up_to = (
        np.searchsorted(negatives, positives, side=side).sum() for side in ("left", "right")
    )
    return float((below + up_to) / (2 * n * m))


def mean_auc(labels: np.ndarray, probabilities: np.ndarray) -> float:
    """Mean over the classes present of the one-versus-rest ROC AUC; NaN where only one class is
    present.

    labels (n) int, probabilities (n, classes).
    """
    present = np.unique(labels)
    if len(present) < 2:
        return float("nan")
    return float(
        np.mean(
            [
                binary_auc(probabilities[labels == c, c], probabilities[labels != c, c])
                for c in present
            ]
        )
    )


def macro_f1(labels: np.ndarray, probabilities: np.ndarray) -> float:
    """Macro-F1 of the most probable class, averaged over the classes present in the labels (equal
    to scikit-learn's f1_score with these labels): mean of 2 TP / (true + called)."""
    classes = probabilities.shape[1]
    confusion = np.bincount(labels * classes + probabilities.argmax(-1), minlength=classes**2)
    confusion = confusion.reshape(classes, classes)
    true, called = confusion.sum(1), confusion.sum(0)
    f1 = 2 * confusion.diagonal() / np.maximum(true + called, 1)
    return float(f1[true > 0].mean())
