"""Where wear comes from: how far each of several requests in a row moves the weights and in which
direction, whom it reaches, and what in the loss brings earlier patients back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from forget_mi.attacks import margins
from forget_mi.data import Request, rows_of
from forget_mi.models import ImageTextModel
from forget_mi.studies.coming_back import parts_of
from forget_mi.studies.sequence import mark_served, serve_next, split_request
from forget_mi.studies.study import Study
from forget_mi.training import Predictions
from forget_mi.unlearning import UnlearningLog
from forget_mi.unlearning.held_out_targets import held_out_outputs


@dataclass(frozen=True)
class Moves:
    """What several requests in a row did.

    table: a row a request: moved and moved_so_far, the length of its step and that of all steps
    together, in shares of the weights' own length; the mean margins of `margins_of`; and those of
    `target_margins`, where the method has references. cosines: between the steps, requests by
    requests. layers: the share of each step's squared length in each part of the towers, requests
    by parts. before_last: the study as the last request found it; served: the patients by then.
    """

    table: pd.DataFrame
    cosines: pd.DataFrame
    layers: pd.DataFrame
    before_last: Study
    served: tuple[str, ...]


def moves_of_requests(study: Study, method: str, settings: Any, parts: int) -> Moves:
    """Serve the study's request in so many parts, one after another."""
    first = parameters_of(study.original.model)
    layout = parts_of(study.original.model)
    now, before, served = study, study, ()
    steps, layers, rows = [], [], []
    requests = split_request(study.cohort, study.request, parts, study.run.params.seed)
    for number, request in enumerate(requests, 1):
        before = now
        targets = target_margins(study, now, served, request)
        seed = study.run.original_seed + 20 * number
        now, _ = serve_next(now, study.cohort, served, request, method, settings, seed=seed)
        here, there = (parameters_of(each.original.model) for each in (before, now))
        step = {name: there[name] - here[name] for name in here}
        steps.append(flat(step))
        layers.append(shares(step, layout))
        row = {"request": number, "moved": float(steps[-1].norm() / flat(first).norm())}
        row["moved_so_far"] = float((flat(there) - flat(first)).norm() / flat(first).norm())
        rows.append(row | margins_of(study, now.original.model, request, served) | targets)
        if number < parts:
            served += request.patients
    units = torch.stack([step / step.norm() for step in steps])
    numbers = [row["request"] for row in rows]
    return Moves(
        pd.DataFrame(rows),
        pd.DataFrame((units @ units.T).numpy(), numbers, numbers),
        pd.DataFrame(layers, numbers),
        before,
        served,
    )


def undone_by(study: Study, moves: Moves, variants: Mapping[str, tuple[str, Any]]) -> pd.DataFrame:
    """What the last request does, by how it is served: from the same model each time, the change of
    the mean margins of `margins_of`. variants: method and settings by name, such as the loss
    without one of its parts."""
    patients = [p for p in study.request.patients if p not in moves.served]
    request = Request("last", tuple(patients))
    how = (study.cohort, moves.served, request)
    before = margins_of(study, moves.before_last.original.model, request, moves.served)
    rows = {}
    for name, (method, settings) in variants.items():
        seed = study.run.original_seed + 999
        after, _ = serve_next(moves.before_last, *how, method, settings, seed=seed)
        found = margins_of(study, after.original.model, request, moves.served)
        rows[name] = {group: found[group] - before[group] for group in before}
    return pd.DataFrame(rows).T


def margins_of(
    study: Study, model: ImageTextModel, request: Request, served: Sequence[str]
) -> dict[str, float]:
    """Mean margins of the fused prediction, in nats: own, of the request's patients; earlier, of
    those served before; stay, of those whom no part of the study's request names; strangers, of
    validation patients. NaN where there are none."""
    train = rows_of(study.cohort, "train")
    patients = study.cohort.table.patient_id.iloc[train]
    groups = {
        "own": train[patients.isin(request.patients)],
        "earlier": train[patients.isin(served)],
        "stay": train[~patients.isin(study.request.patients)],
        "strangers": rows_of(study.cohort, "validation"),
    }
    return {name: mean_margin(study.predictions(model, rows)) if len(rows) else np.nan
            for name, rows in groups.items()}  # fmt: skip


def target_margins(
    first: Study, now: Study, served: Sequence[str], request: Request
) -> dict[str, float]:
    """Mean margin of what the references teach of a request's patients: target, by the references
    as the requests before have left them; first_target, as they were before any. Empty without
    references."""
    found = {}
    cohort = mark_served(first.cohort, served)
    for name, study in (("target", now), ("first_target", first)):
        if study.references:
            asked = replace(study, cohort=cohort, request=request)
            data = study.references.teach(asked.data, cohort)
            outputs = held_out_outputs(data, study.accelerator, UnlearningLog())
            labels = data.forget.labels.numpy()
            said = Predictions(*(t.cpu().numpy() for t in outputs), labels, np.arange(len(labels)))
            found[name] = mean_margin(said)
    return found


def mean_margin(predictions: Predictions) -> float:
    """Of the fused prediction, in nats."""
    return float(margins(predictions, "fused").mean())


def parameters_of(model: ImageTextModel) -> dict[str, Tensor]:
    """The trained weights by name, on the CPU; no running statistics."""
    return {name: p.detach().cpu().clone() for name, p in model.named_parameters()}


def flat(weights: Mapping[str, Tensor]) -> Tensor:
    """As one vector."""
    return torch.cat([t.flatten() for t in weights.values()])


def shares(step: Mapping[str, Tensor], layout: Mapping[str, Sequence[str]]) -> dict[str, float]:
    """The share of a step's squared length in each part of the towers."""
    squares = {
        part: sum(float(step[name].square().sum()) for name in names if name in step)
        for part, names in layout.items()
    }
    return {part: square / sum(squares.values()) for part, square in squares.items()}
