"""What helps, one change at a time, on a profile's tuning seeds: by the rule that chose the
settings, which looks at no retrained model (`make ablation`)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from forget_mi.errors import InputError
from forget_mi.runs import (
    ROOT,
    approach_overrides,
    load_profile,
    read_yaml,
    tuned_by,
    unlearning_values,
    write_table,
)
from forget_mi.studies.documents import write_document_table
from forget_mi.studies.tuning import case_terms, tuning_cases, tuning_folder, unlearn_case
from forget_mi.studies.tuning_score import TuningCase, TuningPredictions, total_score
from forget_mi.training import make_accelerator
from forget_mi.unlearning import get_method, needs_references, parse_approach

NOTHING = "nothing done"


# The terms that the docs' table shows.
SHOWN = ("score", "attack", "probe", "comes_back", "forget_f1", "lost_auc", "lost_f1", "stay")


def read_changes(profile: str | Path) -> tuple[str, dict[str, dict[str, Any]]]:
    """An approach, and changes to its tuned settings by name, from params/ablations/<profile>.yaml.
    A change with a dot in its name is one to the run's params (references.folds).

    Raises InputError where there is no such file, or where it is of another form.
    """
    path = ROOT / "params" / "ablations" / f"{Path(profile).stem}.yaml"
    if not path.is_file():
        known = ", ".join(sorted(p.stem for p in path.parent.glob("*.yaml")))
        raise InputError(f"profile {profile}: there is no {path}; there are changes for {known}")
    values = read_yaml(path)
    approach, changes = values.get("approach"), values.get("changes")
    if values.keys() != {"approach", "changes"} or not isinstance(changes, dict):
        raise InputError(f"{path}: holds {', '.join(values)}; allowed are approach and changes")
    for name, change in changes.items():
        if not isinstance(change, dict):
            raise InputError(f"{path}: change {name!r} is {change!r}; a mapping is allowed")
    parse_approach(approach)
    return approach, changes


def ablate(profile: str | Path, overrides: Mapping[str, Any], folder: Path) -> pd.DataFrame:
    """A row a change and tuning case: change, case, share_of_retraining (of its work), score (0 at
    best) and its terms; the original's first. folder: where the originals and reference models
    are, or are trained; those of changed params lie in folders below it."""
    approach, changes = read_changes(profile)
    method, setting = parse_approach(approach)
    module, learns = get_method(method), needs_references(method, setting)
    own = unlearning_values(approach_overrides(approach, tuned_by(profile))["unlearning"])[1]
    accelerator = make_accelerator(load_profile(profile, overrides).device)
    known: dict[str, list[tuple[TuningCase, TuningPredictions]]] = {}
    rows = []
    for name, change in {NOTHING: {}, **changes}.items():
        of_run = {key: value for key, value in change.items() if "." in key}
        values = own | {key: value for key, value in change.items() if "." not in key}
        where = "-".join(f"{key}={value}" for key, value in of_run.items())
        if where not in known:
            changed = {**overrides, **of_run}
            settings = load_profile(profile, changed).tuning
            how = {"folder": folder / where, "references": learns}
            known[where] = [
                (case, TuningPredictions.of_model(case.original, case, accelerator))
                for case in tuning_cases(profile, settings, accelerator, changed, **how)
            ]
        for case, before in known[where]:
            model, work = case.original, 0.0
            if name != NOTHING:
                model, log = unlearn_case(module, values, case, accelerator)
                work = log.work
            terms = case_terms(model, case, before, accelerator)
            line = {"change": name, "case": case.name}
            line |= {"share_of_retraining": work / case.retraining_work}
            rows.append(line | {"score": total_score(terms)} | terms)
    return pd.DataFrame(rows)


def rebuild_ablation(profile: str | Path, overrides: Mapping[str, Any]) -> None:
    """figures/<profile>_ablation.csv, and its table in the docs: means over the cases."""
    name = Path(profile).stem
    table = ablate(profile, overrides, tuning_folder(profile))
    write_table(ROOT / "figures" / f"{name}_ablation.csv", table)
    means = table.groupby("change", sort=False).mean(numeric_only=True)
    shown = means[["share_of_retraining", *SHOWN]].rename(columns=lambda c: c.replace("_", " "))
    lines = shown.map("{:.3f}".format).reset_index()
    write_document_table(f"{name}_ablation", lines)
