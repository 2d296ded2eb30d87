"""The shadow models of a run's cohort; all runs of the same cohort, model and training share
them."""

from __future__ import annotations

import json

import numpy as np
from accelerate import Accelerator

from forget_mi.data import Cohort, Request, rows_of
from forget_mi.files import sha256_of_text
from forget_mi.runs.project import ROOT, show_progress
from forget_mi.runs.run import Run
from forget_mi.source_code import code_fingerprint
from forget_mi.training import Shadows, ShadowSet, open_shadow_set
from forget_mi.unlearning import unlearn_shadow_models

SHADOWS = ROOT / "runs" / "shadows"


def shadow_set(run: Run, cohort: Cohort) -> ShadowSet:
    """The shadow models of this run's cohort, whether trained already or not."""
    params = run.params
    return open_shadow_set(
        SHADOWS, cohort, params.model, params.training, params.shadows, params.device
    )


def shadow_predictions(run: Run, cohort: Cohort, accelerator: Accelerator) -> Shadows | None:
    """The predictions of the shadow models for every record of the cohort; None where the params
    ask for none, or leave them out as long as some are missing."""
    models, settings = shadow_set(run, cohort), run.params.shadows
    if settings.missing == "train":
        for number in range(settings.count):
            models.train(number, accelerator, progress=show_progress())
    return models.shadows() if settings.count and len(models.trained()) == settings.count else None


def unlearned_shadow_predictions(
    run: Run, cohort: Cohort, request: Request, accelerator: Accelerator
) -> Shadows:
    """The predictions of the shadow models for D_f and D_t (in this order) after the params' method
    made each of them forget a request of its own; kept in the stage of the audit."""
    judged = np.concatenate([request.forget_rows(cohort), rows_of(cohort, "test")])
    models = shadow_set(run, cohort)
    made_of = {**run.params.as_dict("method", "unlearning", "audit"), "judged": judged.tolist()}
    made_of |= {
        "shadows": str(models.folder),
        "code": code_fingerprint(f"unlearning.{run.params.method}"),
    }
    path = (
        run.stage("04_audit") / f"unlearned_shadows-{sha256_of_text(json.dumps(made_of))[:12]}.npz"
    )
    if not path.is_file():
        unlearn_shadow_models(
            models,
            judged,
            request.fraction(cohort),
            run.params.method,
            run.params.unlearning,
            requests=run.params.audit.u_lira,
            seed=run.original_seed,
            accelerator=accelerator,
        ).save(path)
    return Shadows.load(path, len(judged))
