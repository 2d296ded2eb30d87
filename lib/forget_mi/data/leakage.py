"""What could leak from training into the sides that judge it: the same, or nearly the same, image
or report there; and the answer itself, in a report's own words."""

from __future__ import annotations

import re
from typing import Literal

import numpy as np
import pandas as pd
import torch
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.preprocessing import normalize
from torch.nn.functional import adaptive_avg_pool2d

from forget_mi.data.cohort import Cohort, rows_of

Kind = Literal["image", "report"]


# From these similarities on, two records are called near-duplicates. At 16 x 16 pixels a picture
# that was rescaled and compressed stays above .998 of itself; synthetic radiographs of two patients
# reach .995. A report with a sentence more stays above .9 of itself.
NEAR = {"image": 0.997, "report": 0.9}


CHUNK = 512


# Of class names: words that name nothing.
SAY_NOTHING = ("none", "other", "these", "with", "without")


def nearest_in_training(cohort: Cohort, kind: Kind) -> pd.DataFrame:
    """For each record of validation and test the most similar training record of another patient.

    Columns: row and nearest (rows of the cohort's table), split, similarity (cosine, at most 1).
    Images are compared as 16 x 16 pixels, standardised, so that size, compression, brightness and
    contrast don't matter; reports as tf-idf of words and word pairs. One record a study for
    reports. Memory grows with the records, not with their square.
    """
    vectors = _image_vectors(cohort) if kind == "image" else _report_vectors(cohort)
    patients = pd.factorize(cohort.table.patient_id)[0]
    train = _one_a_study(cohort, rows_of(cohort, "train"), kind)
    trained = vectors[train].T
    found = []
    for side in ("validation", "test"):
        rows = _one_a_study(cohort, rows_of(cohort, side), kind)
        for start in range(0, len(rows), CHUNK):
            chunk = rows[start : start + CHUNK]
            similarity = vectors[chunk] @ trained
            similarity = np.asarray(
                similarity.todense() if hasattr(similarity, "todense") else similarity
            )
            similarity[patients[chunk][:, None] == patients[train][None]] = -1
            best = similarity.argmax(1)
            values = similarity[np.arange(len(chunk)), best]
            found.append(
                pd.DataFrame(
                    {"row": chunk, "nearest": train[best], "split": side, "similarity": values}
                )
            )
    return pd.concat(found, ignore_index=True)


def class_named_in_reports(cohort: Cohort) -> pd.DataFrame:
    """How many reports contain a word of their own class's name: there the text gives the answer
    away, or denies it. A row a class: words (looked for at the beginning of a word, whatever case),
    reports, and how many of them name it.

    Words of fewer than four letters, and those that name nothing (other, none), don't count.
    """
    rows = []
    for label, name in enumerate(cohort.classes):
        words = re.findall(r"[^\W\d_]{4,}", name.lower())
        words = [word for word in words if word not in SAY_NOTHING]
        pattern = re.compile(r"\b(?:" + "|".join(map(re.escape, words)) + ")", re.IGNORECASE)
        of_class = cohort.table.study_id[cohort.table.label == label].unique()
        naming = sum(bool(words and pattern.search(cohort.reports[s])) for s in of_class)
        rows.append((name, ", ".join(words), len(of_class), naming))
    columns = ["class", "words", "reports", "naming"]
    return pd.DataFrame(rows, columns=columns).set_index("class")


def near_duplicates(nearest: pd.DataFrame, kind: Kind) -> pd.Series:
    """How many records of each side have a near-duplicate in training (see NEAR), by side."""
    return (nearest.similarity >= NEAR[kind]).groupby(nearest.split).sum()


def _one_a_study(cohort: Cohort, rows: np.ndarray, kind: Kind) -> np.ndarray:
    return (
        rows if kind == "image" else rows[~cohort.table.study_id.iloc[rows].duplicated().to_numpy()]
    )


def _image_vectors(cohort: Cohort) -> np.ndarray:
    """(n, 256), each of mean 0 and length 1."""
    parts = []
    for start in range(0, len(cohort), CHUNK):
        images = torch.from_numpy(
            np.asarray(cohort.images[np.arange(start, min(start + CHUNK, len(cohort)))])
        ).float()
        small = adaptive_avg_pool2d(images, 16).flatten(1)
        parts.append(normalize((small - small.mean(1, keepdim=True)).numpy()))
    return np.concatenate(parts)


def _report_vectors(cohort: Cohort):
    """(n, terms) sparse, each of length 1."""
    texts = [cohort.report_of(row) for row in range(len(cohort))]
    return TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, dtype=np.float32).fit_transform(
        texts
    )
