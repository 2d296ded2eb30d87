"""The explorer of notebooks/explore.ipynb: one patient at a time, what each model says of them, and
how Forget-MI acts on their records. Figures are plain functions; `Explorer.widgets` puts them
behind controls."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure

from forget_mi import plots
from forget_mi.attacks import ATTACKS, Scores, true_probability
from forget_mi.course.lesson import Lesson
from forget_mi.data import Examples, make_examples
from forget_mi.errors import InputError
from forget_mi.evaluation import SETS as SIDES
from forget_mi.evaluation import by_patient, patient_tests
from forget_mi.models import Embeddings, joint_embedding_of
from forget_mi.training import Predictions, predict
from forget_mi.unlearning import Weights, forget_mi, four_losses, noisy_copies

if TYPE_CHECKING:
    pass

WHO = {
    "forget": "asks to be forgotten",
    "retain": "stays",
    "validation": "stranger (validation)",
    "test": "stranger",
}


MAX_RECORDS = 6  # of a patient, side by side


NEIGHBOURS = 3


LOSSES = ("UU", "UR", "MU", "MR")


class Explorer:
    """A finished run, one patient at a time.

    models: whose answers are compared: the original, every unlearned model of the run and one
    retrained model. patients: id by what the menu shows, those who ask to be forgotten first.
    """

    def __init__(self, lesson: Lesson) -> None:
        self.lesson = lesson
        retrained = list(lesson.run.retrained_seeds())[:1]
        self.forgetful = lesson.run.unlearned_names()
        self.models = ["original", *self.forgetful, *retrained]
        self.unlearned = next(
            (m for m in self.models if m == lesson.run.unlearned_name), self.models[-1]
        )
        self.side_of, self.patients = {}, {}
        for side in SIDES:
            for patient in lesson.cohort.table.patient_id.iloc[lesson.rows(side)].drop_duplicates():
                self.side_of[patient] = side
                self.patients[f"{patient}, {WHO[side]}"] = patient

    def rows(self, patient: str) -> np.ndarray:
        """Table rows of a patient on their side, MAX_RECORDS at most. Raises InputError for one
        who is not there."""
        if patient not in self.side_of:
            raise InputError(f"patient {patient!r}: is not in the cohort")
        rows = self.lesson.rows(self.side_of[patient])
        return rows[self.lesson.cohort.table.patient_id.iloc[rows].to_numpy() == patient][
            :MAX_RECORDS
        ]

    def predictions(self, model: str, patient: str) -> Predictions:
        """A model's predictions for those rows."""
        side, rows = self.side_of[patient], self.rows(patient)
        return self.lesson.predictions(model, side).select(
            np.searchsorted(self.lesson.rows(side), rows)
        )

    def report(self, patient: str) -> str:
        """The reports of those rows, each once."""
        cohort = self.lesson.cohort
        return "\n\n".join(
            dict.fromkeys(plots.wrapped(cohort.report_of(row), 110) for row in self.rows(patient))
        )

    # -- figures -----------------------------------------------------------------------------------

    def answers(self, patient: str) -> Figure:
        """The patient's radiographs, and below each, by tower, the probability that each model
        gives the true label."""
        cohort, rows = self.lesson.cohort, self.rows(patient)
        towers = self.predictions("original", patient).towers
        figure, axes = plt.subplots(
            1 + len(towers),
            len(rows),
            squeeze=False,
            figsize=(1.5 + 1.6 * len(rows), 1.9 + 1.1 * len(towers)),
            gridspec_kw={"height_ratios": [2.2, *[1.2] * len(towers)]},
        )
        for at, row in enumerate(rows):
            axes[0, at].imshow(
                cohort.images[row, 0], cmap="gray", vmin=0, vmax=255
            ) if cohort.has_images else None
            axes[0, at].set_title(cohort.classes[cohort.table.label[row]], fontsize=8)
            axes[0, at].axis("off")
        right = {
            (m, t): true_probability(self.predictions(m, patient), t)
            for m in self.models
            for t in towers
        }
        for line, tower in enumerate(towers, start=1):
            for at in range(len(rows)):
                axis, values = axes[line, at], [right[model, tower][at] for model in self.models]
                colours = [plots.model_colour(model) for model in self.models]
                axis.barh(range(len(values)), values, color=colours)
                axis.set(xlim=(0, 1), ylim=(len(values) - 0.5, -0.5), xticks=[0, 1], yticks=[])
                if at == 0:
                    axis.set_yticks(range(len(values)), self.models, fontsize=7)
                    axis.set_ylabel(tower, fontsize=9)
        figure.suptitle("probability of the true label, by tower and model", fontsize=10)
        return plots.finish_figure(figure)

    def attack_position(self, patient: str) -> Figure:
        """Where an attack puts the patient among the strangers, before and after: the mean score of
        each stranger as a histogram, the patient's as a line. Of one who asks to be forgotten, the
        verdict on them below."""
        figure, axes = plt.subplots(1, 2, figsize=(8, 2.3), sharey=True)
        for axis, model in zip(axes, ("original", self.unlearned), strict=True):
            strangers = self._stranger_scores[model]
            mine = self._score(model, patient)
            axis.hist(strangers, bins=20, color=plots.SIDE_COLOURS["test"])
            axis.axvline(mine, color=plots.SIDE_COLOURS["forget"], lw=2)
            axis.set(
                xlabel=f"{self.attack} score",
                title=f"{model}: above {np.mean(strangers < mine):.0%} of strangers",
            )
            axis.title.set_fontsize(9)
        axes[0].set_ylabel("strangers")
        if self.side_of[patient] == "forget":
            said = [f"{m}: {self.verdict(patient, m)}" for m in ("original", self.unlearned)]
            figure.supxlabel("\n".join(plots.wrapped(line, 100) for line in said), fontsize=8)
        return plots.finish_figure(figure)

    def verdict(self, patient: str, model: str) -> str:
        """What the test of one patient says of a patient who asks to be forgotten, as if they alone
        had asked."""
        evidence = self.lesson.evidence(model)
        rows = self.lesson.rows("forget")
        own = np.flatnonzero(self.lesson.cohort.table.patient_id.iloc[rows].to_numpy() == patient)
        shadows = evidence.shadows
        if shadows is not None:
            shadows = {**shadows, "forget": shadows["forget"].select(own)}
        asked = replace(evidence, forget=evidence.forget.select(own), shadows=shadows)
        return patient_tests(asked).in_words()

    def neighbours(self, patient: str) -> Figure:
        """The patient's first radiograph, and the records of others that lie nearest in the
        embedding of the original (above) and of the unlearned model (below)."""
        cohort, row = self.lesson.cohort, self.rows(patient)[0]
        figure, axes = plt.subplots(
            2, 1 + NEIGHBOURS, figsize=(1.7 * (1 + NEIGHBOURS), 4), squeeze=False
        )
        for line, model in zip(axes, ("original", self.unlearned), strict=True):
            for axis, found in zip(line, [row, *self.nearest(model, row)], strict=False):
                axis.imshow(
                    cohort.images[found, 0], cmap="gray", vmin=0, vmax=255
                ) if cohort.has_images else None
                who = cohort.table.patient_id[found]
                axis.set_title(f"{who}\n{cohort.classes[cohort.table.label[found]]}", fontsize=8)
            line[0].set_ylabel(model, fontsize=8)
            for axis in line:
                axis.set(xticks=[], yticks=[])
        return plots.finish_figure(figure)

    def corrupted(
        self, patient: str, sigma: float, text_noise: float, weights: Sequence[float]
    ) -> Figure:
        """Forget-MI's corrupted copy of the patient's first record, and the four losses of all of
        their records, before the first step and after unlearning, as they count in the weighted
        sum."""
        picture, losses = self.losses(patient, sigma, text_noise, Weights(*weights))
        figure, axes = plt.subplots(1, 3, figsize=(9, 3), gridspec_kw={"width_ratios": [1, 1, 2.2]})
        for axis, image, title in zip(axes, picture, ("record", "corrupted copy"), strict=False):
            axis.imshow(image, cmap="gray", vmin=0, vmax=1) if image.size else None
            axis.set_title(title, fontsize=9)
            axis.axis("off")
        left = np.zeros(len(losses))
        for name in LOSSES:
            axes[2].barh(losses.index, losses[name], left=left, label=name)
            left += losses[name].to_numpy()
        axes[2].invert_yaxis()
        axes[2].set(
            xlabel="weighted distance to the target",
            title=f"L = {left[0]:.2f} before the first step",
        )
        axes[2].legend(ncols=4, fontsize=8, loc="upper center", bbox_to_anchor=(0.5, -0.3))
        return plots.finish_figure(figure)

    # -- what the figures are drawn from -----------------------------------------------------------

    @property
    def attack(self) -> str:
        """LiRA where there are shadow models, else the loss attack."""
        return "lira" if self.lesson.shadows is not None else "loss"

    def _scores(self, model: str) -> Scores:
        return ATTACKS[self.attack](self.lesson.evidence(model), "fused")

    @cached_property
    def _stranger_scores(self) -> dict[str, np.ndarray]:
        found = {}
        for model in ("original", self.unlearned):
            predictions = self.lesson.predictions(model, "test")
            found[model] = by_patient(self._scores(model).test, predictions.patients)[0]
        return found

    def _score(self, model: str, patient: str) -> float:
        """The mean score of a patient's records. Attacks judge D_f and D_t; others are put in the
        place of D_f."""
        side = self.side_of[patient]
        evidence = self.lesson.evidence(model)
        predictions = self.lesson.predictions(model, side)
        shadows = evidence.shadows
        if shadows is not None:
            shadows = {**shadows, "forget": self.lesson.shadows.select(self.lesson.rows(side))}
        asked = type(evidence)(**{**evidence.__dict__, "forget": predictions, "shadows": shadows})
        rows = np.searchsorted(self.lesson.rows(side), self.rows(patient))
        return float(ATTACKS[self.attack](asked, "fused").forget[rows].mean())

    @cached_property
    def _places(self) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        """By model, table rows of everyone and where they lie: J, or the one embedding that there
        is."""
        found = {}
        for model in ("original", self.unlearned):
            joint = joint_embedding_of(self.lesson.model(model).model) if self._paired else None
            rows = np.concatenate([self.lesson.rows(side) for side in SIDES])
            predictions = [self.lesson.predictions(model, side) for side in SIDES]
            image, text = (
                np.concatenate([getattr(p, f"{t}_embedding") for p in predictions])
                for t in ("image", "text")
            )
            z = Embeddings(torch.from_numpy(image), torch.from_numpy(text))
            found[model] = (
                rows,
                joint(z).numpy() if joint else np.concatenate([image, text], axis=1),
            )
        return found

    @cached_property
    def _paired(self) -> bool:
        predictions = self.lesson.predictions("original", "forget")
        return predictions.image_embedding.shape[1] == predictions.text_embedding.shape[1]

    def nearest(self, model: str, row: int) -> list[int]:
        """The table rows of other patients that lie nearest to a row, nearest first."""
        rows, places = self._places[model]
        distance = np.linalg.norm(places - places[np.flatnonzero(rows == row)[0]], axis=1)
        people = self.lesson.cohort.table.patient_id
        order = [rows[i] for i in np.argsort(distance, kind="stable")]
        return [int(found) for found in order if people[found] != people[row]][:NEIGHBOURS]

    def losses(
        self, patient: str, sigma: float, text_noise: float, weights: Weights
    ) -> tuple[tuple[np.ndarray, np.ndarray], pd.DataFrame]:
        """The first record's image and its corrupted copy (height, width), and the weighted losses
        of the patient's records: a row before the first step and one a model that forgot, columns
        LOSSES. The retention half are the first records of those who stay."""
        if not self._paired:
            raise InputError(
                "Forget-MI's losses need both towers, of one width; this run's model has not"
            )
        saved = self.lesson.model("original")
        examples = make_examples(
            self.lesson.cohort, self.rows(patient), saved.tokenizer, saved.model.max_tokens
        )
        reports = [self.lesson.cohort.report_of(row) for row in self.rows(patient)]
        settings = forget_mi.Config(sigma=sigma, text_noise=text_noise)
        copy = noisy_copies(
            replace(self.lesson.data, forget=examples, forget_reports=reports), settings, seed=0
        )
        targets = self._embeddings("original", copy)
        stay = self.lesson.data.retain.select(range(min(16, len(self.lesson.data.retain))))
        held = self._embeddings("original", stay)
        joint, table = joint_embedding_of(saved.model), {}
        for name, model in {
            "before": "original",
            **{each: each for each in self.forgetful},
        }.items():
            found = four_losses(
                self._embeddings(model, examples),
                targets,
                self._embeddings(model, stay),
                held,
                joint,
            )
            # four_losses gives UU, UR, MU, MR, the order of Weights.
            table[name] = [float(w * value) for w, value in zip(weights, found, strict=True)]
        pictures = tuple(np.asarray(each.images)[0, 0] / 255 for each in (examples, copy))
        return pictures, pd.DataFrame(table, index=LOSSES).T

    def _embeddings(self, model: str, examples: Examples) -> Embeddings:
        predictions = predict(self.lesson.model(model).model, examples, self.lesson.accelerator)
        return Embeddings(
            torch.from_numpy(predictions.image_embedding),
            torch.from_numpy(predictions.text_embedding),
        )

    # -- controls ----------------------------------------------------------------------------------
