"""What comes back when a forgotten model is trained on, and where in the towers it was hidden."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pandas as pd
import torch

from forget_mi.attacks import margins
from forget_mi.data import Examples, make_examples
from forget_mi.evaluation import trained_on
from forget_mi.models import Checkpoint, ImageTextModel
from forget_mi.runs import load_model, load_source
from forget_mi.studies.study import Study, approach_settings
from forget_mi.unlearning import parse_approach

APPROACHES = ("held_out_targets", "forget_mi-multimodal")


EPOCHS = (0.25, 1.0, 4.0)


# What is learned: those who stay, by the optimiser that trained the original or by another; and the
# patients of a new cohort.
WAYS = (("those who stay", "adamw"), ("those who stay", "sgd"), ("new patients", "adamw"))


def coming_back(study: Study, tuned: str | None) -> pd.DataFrame:
    """A row a model, way of training on and number of epochs: approach, learned, optimizer, and the
    columns of `evaluation.after_training_on`; and a row a model and part of the towers, with
    learned 'in part', see `hidden_in`."""
    rows = []
    for approach, saved in models_of(study, tuned):
        for learned, optimizer in WAYS:
            new = new_patients(study, saved) if learned == "new patients" else None
            if learned == "new patients" and new is None:
                continue
            found = study.after_training_on(saved, epochs=EPOCHS, optimizer=optimizer, learned=new)
            about = {"learned": learned, "optimizer": optimizer, "part": ""}
            rows.append(found.assign(**study.about(approach), **about))
        where = hidden_in(study, saved)
        rows.append(where.assign(**study.about(approach), learned="in part", optimizer="adamw"))
    return pd.concat(rows, ignore_index=True)


def models_of(study: Study, tuned: str | None) -> Iterator[tuple[str, Checkpoint]]:
    """The original, the retrained models, and the unlearned ones of APPROACHES."""
    yield "original", study.original
    for name in study.run.retrained_seeds():
        yield "retrained", load_model(study.run, name, study.cohort, finished=False)
    for approach in APPROACHES:
        settings = approach_settings(approach, tuned)
        model = study.forget(parse_approach(approach)[0], settings, alone=True).model
        yield approach, replace(study.original, model=model)


def new_patients(study: Study, saved: Checkpoint) -> Examples | None:
    """As many records as stay, of another synthetic cohort; None for a cohort that is not."""
    params = study.run.params
    if params.cohort["source"] != "synthetic":
        return None
    other = {**params.cohort, "seed": 1000 + params.cohort.get("seed", 0)}
    cohort = load_source(replace(params, cohort=other))
    count = len(study.request.retain_rows(study.cohort))
    return make_examples(
        cohort, np.arange(min(count, len(cohort))), saved.tokenizer, saved.model.max_tokens
    )


def hidden_in(study: Study, saved: Checkpoint) -> pd.DataFrame:
    """Where it comes back from: a row a part of the towers, with only that part's weights as an
    epoch of training on those who stay left them, and all others as they were. part,
    margin_forget, margin_strangers: mean margins in nats (part '': nothing, 'all': everything)."""
    stay = study.examples(saved, study.rows["retain"])
    how = {"seed": study.run.original_seed, "accelerator": study.accelerator}
    ((_, later),) = trained_on(saved.model, stay, study.run.params.training, epochs=[1], **how)
    before, after = (
        {name: t.detach().cpu().clone() for name, t in model.state_dict().items()}
        for model in (saved.model, later)
    )
    parts = {name: part for name, part in parts_of(saved.model).items() if part}
    parts = {"nothing": [], **parts, "all": list(before)}
    rows = []
    for part, names in parts.items():
        mixed = copy.deepcopy(saved.model).cpu()
        mixed.load_state_dict({**before, **{name: after[name] for name in names}})
        which = replace(saved, model=mixed)
        seen = {side: study.predictions(which, study.rows[side]) for side in ("forget", "test")}
        row = {"part": part, "epochs": 1.0}
        row |= {
            f"margin_{name}": float(margins(seen[side], "fused").mean())
            for name, side in (("forget", "forget"), ("strangers", "test"))
        }
        rows.append(row)
    return pd.DataFrame(rows)


def parts_of(model: ImageTextModel) -> dict[str, list[str]]:
    """Names of the weights and statistics of each part of the towers: stem (what comes before the
    blocks), each block, and the head with what lies before it."""
    found, towers = {}, {"image": model.image_tower, "text": model.text_tower}
    for name, tower in towers.items():
        if tower is None:
            continue
        groups = {f"block {k + 1}": [block] for k, block in enumerate(tower.blocks())}
        groups["head"] = [*tower.after_blocks(), tower.head]
        taken = set()
        for part, modules in groups.items():
            names = [n for module in modules for n in _names(model, module)]
            found[f"{name}, {part}"] = names
            taken |= set(names)
        own = set(_names(model, tower))
        found[f"{name}, stem"] = sorted(own - taken)
    return found


def _names(model: ImageTextModel, module: torch.nn.Module) -> list[str]:
    prefix = next(name for name, m in model.named_modules() if m is module)
    return [name for name in model.state_dict() if name.startswith(f"{prefix}.")]
