"""Shadow models that are unlearned themselves, for U-LiRA (Hayes et al., 2024, arXiv
2403.01218)."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from accelerate import Accelerator

from forget_mi.data import Cohort, Request, make_examples
from forget_mi.training import SEEDS, Shadows, ShadowSet, predict
from forget_mi.unlearning.base import Reference, UnlearningData
from forget_mi.unlearning.registry import get_method, needs_references


def draw_shadow_request(
    cohort: Cohort, members: np.ndarray, judged: np.ndarray, images: int, rng: np.random.Generator
) -> Request:
    """A deletion request to a shadow model: patients of its training rows `members`, drawn from
    those of the rows `judged` (D_f and D_t, whose scores are wanted), until they have about
    `images` images, at least one patient and at most half of those it knows."""
    table = cohort.table.iloc[np.intersect1d(members, judged)]
    sizes = table.groupby("patient_id", sort=False).size()
    order = rng.permutation(len(sizes))
    taken = max(1, int(np.searchsorted(np.cumsum(sizes.to_numpy()[order]), images + 0.5)))
    known = cohort.table.patient_id.iloc[members].nunique()
    return Request("shadow", tuple(sizes.index[order[: min(taken, known // 2)]]))


def _teachers(
    shadows: ShadowSet, pupil: int, own: Cohort, data: UnlearningData
) -> tuple[Reference, ...]:
    """As few of the other shadow models as it takes, by number from the pupil's on, for each
    patient of D_f to be a stranger to one of them (half of all models are, so there is one)."""
    rows, found = data.forget.rows.numpy(), []
    left = np.ones(len(rows), dtype=bool)
    for step in range(1, shadows.settings.count):
        number = (pupil + step) % shadows.settings.count
        stranger = ~np.isin(rows, shadows.rows_of(number))
        if (stranger & left).any():
            found.append(
                Reference.from_checkpoint(
                    f"shadow-{number:02d}", shadows.load(number), data, own, stranger
                )
            )
            left &= ~stranger
    return tuple(found)


def unlearn_shadow_models(
    shadows: ShadowSet,
    judged: np.ndarray,
    fraction: float,
    method: str,
    settings: Any,
    *,
    requests: int,
    seed: int,
    accelerator: Accelerator,
) -> Shadows:
    """Shadow models after `method` made each forget a request of its own (Hayes et al., 2024): what
    they say of the rows `judged` (n), from whose patients the requests are drawn.

    fraction: of a shadow model's training images that a request asks for. requests: to each shadow
    model, each time from the model as it was trained. A method that learns from reference models is
    given other shadow models, which never saw the patients: none that taught the model that is
    judged.
    """
    seen, forgotten, strangers = [], [], []
    for number in range(shadows.settings.count):
        checkpoint, members = shadows.load(number), shadows.rows_of(number)
        own = shadows.split_for(number)
        examples = make_examples(own, judged, checkpoint.tokenizer, shadows.model.max_tokens)
        for draw in range(requests):
            rng = np.random.default_rng([seed, number, draw, 37])
            request = draw_shadow_request(own, members, judged, round(fraction * len(members)), rng)
            data = UnlearningData.from_cohort(
                own, request, checkpoint.tokenizer, shadows.model.max_tokens
            )
            if needs_references(method, getattr(settings, "setting", None)):
                data = replace(data, references=_teachers(shadows, number, own, data))
            unlearned, _ = get_method(method).unlearn(
                checkpoint.model,
                data,
                settings,
                seed=SEEDS + 1000 * number + draw,
                accelerator=accelerator,
                progress=False,
            )
            seen.append(predict(unlearned, examples, accelerator))
            forgotten.append(np.isin(judged, request.forget_rows(own)))
            strangers.append(~np.isin(judged, members))
    return Shadows(seen, np.stack(forgotten), np.stack(strangers))
