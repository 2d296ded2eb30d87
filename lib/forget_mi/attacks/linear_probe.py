"""Linear probe on frozen embeddings: what the layers below the output layer still know."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from forget_mi.attacks.base import Evidence, Scores
from forget_mi.training import Predictions, Tower


def attack(evidence: Evidence, tower: Tower) -> Scores:
    """score(x) = w . s(x) + b, a logistic regression that tells D_r from D_v (classes weighted
    alike) by

        s(x) = [z ; d(z, other labels) - d(z, own label)],

    the embedding, and how much nearer it lies to the mean embedding of its own label's members than
    to that of any other label's. It reads no output of the model, so that an unlearning which only
    edits the output layer does not get past it. Costs one regression. Assumes access to embeddings,
    as whoever holds the weights has it.
    """
    score = fit(evidence.retain, evidence.validation, tower)
    return Scores(score(evidence.forget), score(evidence.test))


def fit(
    members: Predictions, strangers: Predictions, tower: Tower
) -> Callable[[Predictions], np.ndarray]:
    """The probe that tells `members` from `strangers`, as a function from predictions to the
    scores of their records (n)."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    sides = [features(p, members, tower) for p in (members, strangers)]
    truth = np.repeat([1, 0], [len(x) for x in sides])
    classifier = make_pipeline(
        StandardScaler(), LogisticRegression(C=0.01, class_weight="balanced", max_iter=500)
    )
    classifier.fit(np.concatenate(sides), truth)
    return lambda predictions: classifier.decision_function(features(predictions, members, tower))


def embedding(predictions: Predictions, tower: Tower) -> np.ndarray:
    """z of one tower (n, width), or both side by side for the fused prediction."""
    parts = {"image": (predictions.image_embedding,), "text": (predictions.text_embedding,)}
    both = (predictions.image_embedding, predictions.text_embedding)
    return np.concatenate(parts.get(tower, both), -1).astype(np.float64)


def features(predictions: Predictions, members: Predictions, tower: Tower) -> np.ndarray:
    """s(x) of each record, (n, width + 1)."""
    z, known = embedding(predictions, tower), embedding(members, tower)
    labels = np.unique(members.labels)
    means = np.stack([known[members.labels == label].mean(0) for label in labels])
    distance = np.linalg.norm(z[:, None] - means, axis=-1)
    own = predictions.labels[:, None] == labels
    to_own = np.where(own, distance, np.inf).min(1)
    # Members of a single class have no other to be compared with, and a class without members no
    # place of its own.
    to_others = np.where(own, np.inf, distance).min(1) if len(labels) > 1 else 0
    nearer = np.where(own.any(1), to_others - to_own, 0.0)
    return np.concatenate([z, nearer[:, None]], -1)
