"""What fits on a card: a profile's steps against the memory of common ones, before they run."""

from __future__ import annotations

from functools import partial

import pandas as pd
import torch

from forget_mi.errors import InputError
from forget_mi.runs.params import Params
from forget_mi.training.memory import USABLE, StepMemory, estimate_step

CARDS_GB = (16, 24, 80)


def memory_table(params: Params, image_size: int | None = None) -> pd.DataFrame:
    """A row a card and kind of step: records of the profile's step, GiB that it takes whole, the
    most records that fit at once, as many with `device.recompute`, and the `device.parts` that make
    it fit ('none' where not even one record does). The card of this machine, if it has one, comes
    last.

    image_size: in pixels, for a cohort whose settings don't say. Raises InputError where neither
    does.
    """
    size = image_size or params.cohort.get("image_size")
    if size is None:
        raise InputError(
            f"profile {params.profile!r}: its cohort's settings have no image_size; give it with "
            "--image-size"
        )
    bf16 = params.device.precision != "fp32"
    estimate = partial(estimate_step, params.model, size, bf16=bf16)
    step = estimate(recompute=params.device.recompute)
    try:
        sparing = estimate(recompute=True)
    except InputError:  # somebody's own network, whose blocks can't be told apart
        sparing = None
    unlearning = params.unlearning
    records = {"training": params.training.batch_size}
    if hasattr(unlearning, "retain_batch"):
        records["unlearning"] = unlearning.batch_size + unlearning.retain_batch
    cards = {f"{gb} GB": gb * 2**30 for gb in CARDS_GB}
    if torch.cuda.is_available():
        card = torch.cuda.get_device_properties(0)
        cards[card.name] = card.total_memory
    rows = []
    for card, memory in cards.items():
        for kind, count in records.items():
            rows.append(
                {"card": card, "step": kind, **_row(step, sparing, kind, count, USABLE * memory)}
            )
    table = pd.DataFrame(rows)
    table.attrs["about"] = (
        f"profile {params.profile}: {step.parameters / 1e6:.1f} M parameters; a record of {size} "
        f"px keeps {step.record / 2**20:.1f} MiB in {'bf16' if bf16 else 'fp32'}"
    )
    return table


def _row(
    step: StepMemory, sparing: StepMemory | None, kind: str, records: int, room: float
) -> dict[str, object]:
    unlearns = kind == "unlearning"
    needed = step.unlearning(records) if unlearns else step.training(records)
    parts = step.parts(records, room, unlearns)
    return {
        "records": records,
        "GiB": round(needed / 2**30, 2),
        "most records at once": step.most_records(room, unlearns),
        "recomputing": "none" if sparing is None else sparing.most_records(room, unlearns),
        "device.parts": "none" if parts is None else parts,
    }
