"""A run's model as a folder for others: weights, model card, and records that exports are checked
with."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from forget_mi.data import Batch, make_examples, rows_of
from forget_mi.models import MANIFEST, ImageTextModel, read_manifest, save_pretrained
from forget_mi.runs import load_model

if TYPE_CHECKING:
    from forget_mi.runs import Run

MEASURES = ("forget_auc", "test_auc", "test_f1", "attack_auc")  # of the audit, on the card


def pack_model(run: Run, name: str, folder: str | Path) -> tuple[ImageTextModel, Batch]:
    """`save_pretrained` for one of a run's models, with its card; return the model, and some
    validation records that an export can be checked with. Raises InputError where the run has no
    such model."""
    cohort = run.cohort()
    saved = load_model(run, name, cohort)
    save_pretrained(folder, saved.model, saved.tokenizer, card_facts(run, name))
    some = make_examples(
        cohort, rows_of(cohort, "validation")[:5], saved.tokenizer, saved.model.max_tokens
    )
    return saved.model, some.__getitems__(range(len(some)))


def card_facts(run: Run, name: str) -> dict[str, Any]:
    """What a run knows of one of its models (original, or an approach that notebook 03 left) for
    its card: how it was made, hashed ids of those whose request it served, and the audit where
    there is one."""
    folder = (
        run.stage("02_train") / name
        if name == "original"
        else run.stage("03_unlearn") / name / "model"
    )
    manifest = read_manifest(folder)
    facts = {"name": name, "training": json.dumps(run.params.as_dict("training")["training"])}
    facts |= {
        "cohort": manifest["cohort"],
        "method": f"{manifest['method']} {manifest['setting']}".strip(),
    }
    if manifest["request"]:
        facts["requests"] = sorted(run.hashed(patient) for patient in run.request().patients)
    audited = run.stage("04_audit")
    if (audited / MANIFEST).is_file():
        measures, attacks = pd.read_csv(audited / "audit.csv"), pd.read_csv(audited / "attacks.csv")
        rows = measures[
            (measures.model == name) & (measures.tower == "fused") & measures.measure.isin(MEASURES)
        ]
        mine = attacks[
            (attacks.model == name)
            & attacks.tower.isin(["fused", "any"])
            & (attacks.level == "sample")
        ]
        mine = mine.rename(columns={"auc": "value", "auc_low": "low", "auc_high": "high"})
        mine = mine.assign(measure="attack: " + mine.attack)
        columns = ["measure", "value", "low", "high"]
        facts["rows"] = pd.concat([rows[columns], mine[columns]]).to_dict("records")
    return facts
