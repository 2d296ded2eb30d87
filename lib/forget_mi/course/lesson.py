"""A lesson's start: the run that it reads, opened, or a sentence that says what to run first."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from accelerate import Accelerator

from forget_mi.attacks import Evidence, loss, svc
from forget_mi.data import Cohort, Examples, Request, make_examples
from forget_mi.errors import InputError
from forget_mi.evaluation import SETS as SIDES
from forget_mi.evaluation import rows_by_set
from forget_mi.metrics import binary_auc, macro_f1, mean_auc
from forget_mi.models import Checkpoint, ImageTextModel
from forget_mi.runs import (
    Run,
    display_path,
    load_model,
    load_references,
    open_run,
    shadow_predictions,
)
from forget_mi.training import Predictions, Shadows, make_accelerator, predict
from forget_mi.unlearning import UnlearningData


@dataclass(frozen=True)
class Lesson:
    """A finished run as a lesson reads it: the cohort, the request, and what the run's models say
    of the records."""

    run: Run
    cohort: Cohort
    request: Request
    accelerator: Accelerator
    _predictions: dict[tuple[str, str], Predictions] = field(default_factory=dict, repr=False)
    _models: dict[str, Checkpoint] = field(default_factory=dict, repr=False)

    def rows(self, side: str) -> np.ndarray:
        """Rows of the cohort's table: forget (D_f), retain (D_r), validation (D_v) or test
        (D_t)."""
        if side not in SIDES:
            raise InputError(f"side {side!r}; allowed are {', '.join(SIDES)}")
        return self._rows[side]

    @cached_property
    def _rows(self) -> Mapping[str, np.ndarray]:
        return rows_by_set(self.cohort, self.request)

    def model(self, name: str) -> Checkpoint:
        """A model of the run, read once: original, retrained-1, reference-1, forget_mi-multimodal,
        ..."""
        if name not in self._models:
            self._models[name] = load_model(self.run, name, self.cohort)
        return self._models[name]

    def examples(self, side: str, saved: Checkpoint) -> Examples:
        """The records of a side, tokenised for a model."""
        return make_examples(self.cohort, self.rows(side), saved.tokenizer, saved.model.max_tokens)

    def predictions(self, model: str | ImageTextModel, side: str) -> Predictions:
        """A model's predictions for the records of a side; by name it is asked once. A model
        without a name (one that the lesson has just made) has the original's tokenizer."""
        if not isinstance(model, str):
            return predict(model, self.examples(side, self.model("original")), self.accelerator)
        if (model, side) not in self._predictions:
            saved = self.model(model)
            found = predict(saved.model, self.examples(side, saved), self.accelerator)
            self._predictions[model, side] = found
        return self._predictions[model, side]

    def evidence(self, model: str | ImageTextModel) -> Evidence:
        """What an attacker sees of a model."""
        seen = {side: self.predictions(model, side) for side in SIDES}
        return Evidence(**seen, shadows=self.shadows_by_side)

    def losses(self, *models: str, sides: Sequence[str] = ("forget", "test")) -> pd.DataFrame:
        """A row a record: model, set, and its fused cross-entropy in nats."""
        parts = [
            pd.DataFrame(
                {
                    "model": model,
                    "set": side,
                    "fused": self.predictions(model, side).cross_entropy("fused"),
                }
            )
            for model in models
            for side in sides
        ]
        return pd.concat(parts, ignore_index=True)

    def measures(self, model: str | ImageTextModel) -> dict[str, float]:
        """What lesson 3 looks at, of the fused prediction: AUC on three sides, forget F1, and two
        attacks."""
        evidence = self.evidence(model)
        output = {side: getattr(evidence, side) for side in ("forget", "retain", "test")}
        found = {
            f"{side} AUC": mean_auc(p.labels, p.probabilities("fused"))
            for side, p in output.items()
        }
        found["forget F1"] = macro_f1(
            output["forget"].labels, output["forget"].probabilities("fused")
        )
        found["SVC attack"] = float(svc.member_calls(evidence, "fused").mean())
        return found | {"loss attack": binary_auc(*loss.attack(evidence, "fused"))}

    @cached_property
    def data(self) -> UnlearningData:
        """What an unlearning method is given, with the reference models as teachers where the run
        has them."""
        saved = self.model("original")
        data = UnlearningData.from_cohort(
            self.cohort, self.request, saved.tokenizer, saved.model.max_tokens
        )
        references = load_references(self.run, self.cohort)
        return references.teach(data, self.cohort) if references else data

    @cached_property
    def shadows(self) -> Shadows | None:
        """The predictions of the shadow models for every record of the cohort; None where they have
        not been trained."""
        return shadow_predictions(self.run, self.cohort, self.accelerator)

    @property
    def shadows_by_side(self) -> Mapping[str, Shadows] | None:
        """The same, by side."""
        if self.shadows is None:
            return None
        return {side: self.shadows.select(self.rows(side)) for side in SIDES}


def open_lesson(
    profile: str | Path = "demo",
    run_dir: str | Path | None = None,
    overrides: Mapping[str, Any] | None = None,
    *,
    needs: Sequence[str] = ("original",),
    shadows: bool = False,
) -> Lesson:
    """Open the run that a lesson reads. needs: the models that must be there; shadows: whether
    shadow models must be.

    Raises NotThereError, whose message says what to run, where something is missing.
    """
    run = open_run(profile, run_dir, overrides)
    try:
        lesson = Lesson(run, run.cohort(), run.request(), make_accelerator(run.params.device))
        for name in needs:
            lesson.model(name)
    except InputError as error:
        raise missing_run_error(
            run, str(error), "make demo" if profile == "demo" else f"make run PROFILE={profile}"
        ) from None
    if shadows and lesson.shadows is None:
        count = run.params.shadows.count or "no"
        raise missing_run_error(
            run, f"it needs shadow models ({count} asked for)", f"make shadows PROFILE={profile}"
        )
    return lesson


class NotThereError(InputError):
    """A lesson's run is not there; shown as a sentence and not as a traceback."""

    def _render_traceback_(self) -> list[str]:  # what IPython asks an exception for
        return [str(self)]


def missing_run_error(run: Run, why: str, command: str) -> NotThereError:
    """The exception that says what to run; in a notebook, also a button that runs the tiny
    profile."""
    offer_tiny()
    return NotThereError(
        f"This lesson reads {display_path(run.folder)}, and can't: {why}.\n"
        f"Run `{command}` in a terminal and then this notebook again, or take the tiny profile "
        "(one minute; its "
        "numbers mean little): press the button above, or call `forget_mi.course.run_tiny()`; then "
        "set "
        'profile = "tiny" in the cell of parameters.'
    )


def run_tiny(run_dir: str | Path | None = None) -> Path:
    """Run the five notebooks on the tiny profile (about a minute); return the run's folder."""
    from forget_mi.runs import run_chain

    return run_chain("tiny", run_dir, progress=False).folder


def offer_tiny() -> None:
    """Show a button that runs the tiny profile, where there is a notebook to show it in."""
    if "ipykernel" not in sys.modules:
        return
    import ipywidgets
    from IPython.display import display

    button = ipywidgets.Button(description="Run the tiny profile", button_style="primary")
    output = ipywidgets.Output()

    def pressed(_: ipywidgets.Button) -> None:
        button.disabled = True
        with output:
            print("Running the five notebooks on the tiny profile ...")
            run_tiny()
            print('Done. Set profile = "tiny" in the cell of parameters, and run all cells again.')

    button.on_click(pressed)
    display(ipywidgets.VBox([button, output]))
