"""The settings of the audit."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, Field

from forget_mi.config import config


def _a_spread(groups: int) -> int:
    if groups == 1:
        raise ValueError("one group has no spread; allowed are 0 and 2 or more")
    return groups


@config
class AuditConfig:
    """draws: bootstrap samples of patients. level: of the intervals. seed: of the bootstrap.
    approaches: which unlearned models of the run are audited; empty for all that there are.
    verdict_level: confidence of a verdict, over all of a model's checks together. u_lira: requests
    to each shadow model for the attack of that name on the params' method; 0 leaves it out.
    neighbours: of each forgotten patient, whose treatment is looked at. relearning: groups of
    strangers that the speed of relearning is compared with; 0 leaves that probe out, which trains
    each model again for a few passes over each group. training_on: epochs of ordinary training on
    those who stay, after which the models are attacked again; 0 leaves it out."""

    draws: Annotated[int, Field(ge=50, le=100_000)] = 500
    level: Annotated[float, Field(gt=0.5, lt=1)] = 0.95
    seed: Annotated[int, Field(ge=0)] = 0
    approaches: tuple[str, ...] = ()
    verdict_level: Annotated[float, Field(gt=0.5, lt=1)] = 0.95
    u_lira: Annotated[int, Field(ge=0, le=100)] = 0
    neighbours: Annotated[int, Field(ge=1, le=100)] = 3
    relearning: Annotated[int, Field(ge=0, le=100), AfterValidator(_a_spread)] = 6
    training_on: Annotated[float, Field(ge=0, le=100)] = 1.0
