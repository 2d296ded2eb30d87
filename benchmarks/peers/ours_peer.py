"""This project's methods and the trained models themselves, judged beside the peers."""

from __future__ import annotations

from importlib.metadata import version
from typing import Any

import pandas as pd
import study

from forget_mi.models import load_checkpoint
from forget_mi.runs import tuned_by
from forget_mi.studies.study import approach_settings
from forget_mi.unlearning import parse_approach

PACKAGE, VERSION = "forget-mi", version("forget-mi")
NEEDS = ()
# Those of ours that have a namesake in a peer, and the two that the project is about.
METHODS = (
    "trained",
    "held_out_targets",
    "forget_mi-multimodal",
    "fine_tune",
    "neg_grad",
    "random_labels",
    "bad_teacher",
    "scrub-last",
    "ssd",
)
LEFT_OUT = {}


def runs_on(name: str, towers: str) -> bool:
    """Forget-MI needs both towers."""
    return towers == "both" or not name.startswith("forget_mi")


def run(name: str, towers: str) -> list[dict[str, Any]]:
    """Rows of one approach, with the settings that `make tune` chose on both towers; of 'trained',
    the original and the retrained models."""
    rows = []
    for seed in study.SEEDS:
        opened = study.open_study(towers, seed)
        if name == "trained":
            rows += trained(opened, towers)
            continue
        settings = approach_settings(name, tuned_by(study.PROFILE))
        forget = lambda: opened.forget(parse_approach(name)[0], settings)  # noqa: B023, E731
        rows.append(study.judged(opened, name, towers, "tuned", forget))
    return rows


def trained(opened: study.Study, towers: str) -> list[dict[str, Any]]:
    """The original and each retrained model, with what its training took."""
    rows = []
    names = ["original", *opened.run.retrained_seeds()]
    for name, row in zip(names, opened.baseline_rows(), strict=True):
        about = {"method": row["approach"], "towers": towers, "settings": "", "seed": row["seed"]}
        costs = {"share_of_retraining": row.get("share_of_retraining"), "ended": ""}
        if name != "original":
            saved = load_checkpoint(opened.run.stage("02_train") / name)
            costs["seconds"] = saved.manifest["seconds"]
        rows.append(about | {column: row[column] for column in study.COLUMNS} | costs)
    return [{k: None if pd.isna(v) else v for k, v in row.items()} for row in rows]
