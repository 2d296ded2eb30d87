"""Requests one after another, each served by what the one before left."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd

from forget_mi.attacks import margins
from forget_mi.data import Cohort, Request
from forget_mi.errors import InputError
from forget_mi.evaluation import FORGOTTEN
from forget_mi.runs import load_model
from forget_mi.runs.policies import quick
from forget_mi.studies.study import Study, UnlearningResult
from forget_mi.unlearning import References, UnlearnedReference, parse_approach


def split_request(cohort: Cohort, request: Request, parts: int, seed: int) -> list[Request]:
    """A request cut into parts by patient, of about as many images each.

    Raises InputError where it names fewer patients than parts.
    """
    if len(request.patients) < parts:
        raise InputError(
            f"request {request.name}: {len(request.patients)} patients can't be cut into {parts} "
            "requests"
        )
    train = cohort.table.iloc[request.forget_rows(cohort)]
    images = train.groupby("patient_id", sort=False).size()
    order = np.random.default_rng([seed, 41]).permutation(images.index.to_numpy())
    found: list[list[str]] = [[] for _ in range(parts)]
    sizes = np.zeros(parts)
    for patient in sorted(order, key=lambda name: -images[name]):  # stable: ties in random order
        smallest = int(sizes.argmin())
        found[smallest].append(str(patient))
        sizes[smallest] += images[patient]
    return [
        Request(f"{request.name}-part{k + 1}", tuple(sorted(part))) for k, part in enumerate(found)
    ]


def mark_served(cohort: Cohort, patients: Sequence[str]) -> Cohort:
    """The cohort once some patients' requests were served: they are on no side that is learned
    from."""
    gone = cohort.table.patient_id.isin(patients)
    return replace(
        cohort, table=cohort.table.assign(split=cohort.table.split.where(~gone, FORGOTTEN))
    )


def serve_next(
    now: Study,
    cohort: Cohort,
    served: Sequence[str],
    request: Request,
    method: str,
    settings: Any,
    *,
    seed: int,
) -> tuple[Study, UnlearningResult]:
    """Serve a request by the model and references that the requests before it left, `now`'s; return
    the study as the next request finds it, and what this one did.

    cohort: as it was before any request. served: the patients of those before.
    """
    now = replace(now, cohort=mark_served(cohort, served), request=request)
    forgotten = now.forget(method, settings, seed=seed)
    after = replace(
        now,
        original=replace(now.original, model=forgotten.model),
        references=update_references(now.references, forgotten.references, request),
    )
    return after, forgotten


def sequence(
    study: Study, approach: str, settings: Any, parts: int, *, together: bool = False
) -> pd.DataFrame:
    """The study's request as `parts` requests, one after another, each served by what the one
    before left; a row a request. together: each is served by `runs.policies.QUICK` settings, and
    after the last one all of them once more, together, from the first model; the last row is of
    what that gives, and its approach ends in '-together'.

    The columns of `Study.row`, all measured on the whole request's patients against models
    retrained without any of them (so only the last row is a fair distance), the shares of all
    requests so far, and request; and margin_over_retrained: mean margin on the patients of the
    requests served so far, less the retrained models' mean.
    """
    whole, now, done = study, study, []
    total, of_references = 0.0, 0.0
    everyone = whole.request.forget_rows(whole.cohort)
    golden = [
        whole.predictions(load_model(whole.run, name, whole.cohort, finished=False), everyone)
        for name in whole.run.retrained_seeds()
    ]
    method = parse_approach(approach)[0]
    first = replace(settings, **quick(settings)) if together else settings
    rows, seconds = [], 0.0
    for number, part in enumerate(
        split_request(study.cohort, study.request, parts, study.run.params.seed), 1
    ):
        seed = study.run.original_seed + 20 * number
        now, forgotten = serve_next(now, study.cohort, done, part, method, first, seed=seed)
        steps = [forgotten]
        done += part.patients
        if together and number == parts:
            forgotten = study.forget(method, settings)
            steps.append(forgotten)
        total += sum(step.work for step in steps)
        seconds += sum(step.seconds for step in steps)
        of_references += sum(step.work_of_references for step in steps) / whole.retraining_work
        so_far = UnlearningResult(forgotten.model, {}, seconds, total)
        row = whole.row(f"{approach}-together" if together else approach, so_far, request=number)
        asked = whole.cohort.table.patient_id.iloc[everyone].isin(done).to_numpy()
        mine = margins(whole.predictions(forgotten.model, everyone), "fused")[asked].mean()
        theirs = (
            np.mean([margins(each, "fused")[asked].mean() for each in golden]) if golden else np.nan
        )
        row |= {"share_of_references": of_references, "margin_over_retrained": mine - theirs}
        rows.append(
            row | {"one_off_trainings": whole.one_off_trainings if forgotten.references else 0.0}
        )
    return pd.DataFrame(rows)


def update_references(
    references: References, unlearned: Mapping[str, UnlearnedReference], request: Request
) -> References:
    """The references once a request was served."""
    gone = {references.hashed(patient) for patient in request.patients}
    return replace(
        references,
        checkpoints={n: replace(c, model=unlearned[n].model) if n in unlearned else c
                     for n, c in references.checkpoints.items()},
        saw={name: patients - gone for name, patients in references.saw.items()},
    )  # fmt: skip
