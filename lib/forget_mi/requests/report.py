"""The deletion report: what was asked, what was done, the evidence and its limits, as one HTML file
that needs nothing else and as JSON. Patients are named by hashed ids."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from jinja2 import Environment, PackageLoader, StrictUndefined
from matplotlib.figure import Figure

from forget_mi import plots
from forget_mi.attacks import Scores
from forget_mi.evaluation import COULD_NOT, FOUND, NOT_TOLD, PUSHED, overall_verdict, verdict_basis
from forget_mi.files import write_text
from forget_mi.models import read_manifest
from forget_mi.plots import audit as audit_plots
from forget_mi.runs import Run
from forget_mi.runs.provenance import provenance

MEANING = {
    FOUND: "The model treats somebody of this request as it treats those it knows. It remembers "
    "something.",
    PUSHED: "The model does worse on somebody of this request than on strangers. That marks them "
    "as well.",
    NOT_TOLD: "The model treats these patients as strangers, as far as this test can tell.",
    COULD_NOT: "The test was too weak to judge anybody. Nothing is shown either way.",
}


def write_report(
    run: Run, entry: Mapping[str, Any], hashed: Callable[[str], str]
) -> dict[str, Any]:
    """Write report.html and report.json into a request's run folder, from what its audit left;
    return the facts.

    entry: of the ledger. hashed: a patient's id as it may be shown.
    """
    facts = report_facts(run, entry, hashed)
    plots.set_style()
    figures = [
        (title, text, embedded(figure)) for title, text, figure in report_figures(run, facts)
    ]
    environment = Environment(
        loader=PackageLoader("forget_mi.requests", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
    )
    page = environment.get_template("report.html.j2").render(facts=facts, figures=figures)
    write_text(run.folder / "report.html", page)
    write_text(run.folder / "report.json", json.dumps(facts, indent=2) + "\n")
    return facts


def report_facts(
    run: Run, entry: Mapping[str, Any], hashed: Callable[[str], str]
) -> dict[str, Any]:
    """Everything that the report says, JSON-ready; a number that could not be had is None."""
    audit, name, cohort = run.stage("04_audit"), entry["approach"], run.cohort()
    unlearned = json.loads((run.stage("03_unlearn") / name / "model" / "manifest.json").read_text())
    original = read_manifest(run.stage("02_train") / "original")
    about = json.loads((audit / "manifest.json").read_text())
    share = unlearned["seconds"] / original["seconds"]
    checks = _of(audit / "checks.csv", name)
    verdict = about["verdict"][name]
    attacks = pd.read_csv(audit / "attacks.csv")
    attacks = attacks[attacks.tower.isin(["fused", "any"])]
    measures = pd.read_csv(audit / "audit.csv")
    useful = measures[
        (measures.tower == "fused") & measures.measure.isin(["test_auc", "test_f1", "retain_auc"])
    ]
    earlier = audit / "earlier.csv"
    return {
        "cohort": {"source": run.params.cohort["source"], "synthetic": bool(cohort.synthetic)},
        "request": {key: entry[key] for key in ("number", "served", "patients", "images")},
        "done": {
            "approach": name,
            "settings": run.params.as_dict("unlearning")["unlearning"],
            "stopped": unlearned["stopped"],
            "seconds": unlearned["seconds"],
            "share_of_training": share if np.isfinite(share) else None,
            "device": unlearned["device"],
        },
        "models": {"before": entry["original_sha256"], "after": entry["unlearned_sha256"]},
        "verdict": verdict,
        "meaning": " ".join(MEANING[part] for part in verdict.split(" and ")),
        "in_words": about["in_words"][name],
        "wear": entry.get("wear"),
        "patients": judged_patients(
            _of(audit / "patients.csv", name), cohort.table.patient_id.unique(), hashed
        ),
        "average": {"verdict": overall_verdict(checks), "rests_on": verdict_basis(checks)},
        "attacks": records(attacks.drop(columns="tower")),
        "usefulness": records(useful[["model", "measure", "value", "low", "high"]]),
        "relearning": records(_of(audit / "relearning.csv", name).drop(columns="model"))[0]
        if run.params.audit.relearning
        else None,
        "training_on": records(_of(audit / "training_on.csv", name).drop(columns="model"))
        if run.params.audit.training_on
        else [],
        "earlier": records(_of(earlier, name).drop(columns="tower")) if earlier.is_file() else [],
        "earlier_in_words": about["earlier_in_words"].get(name, ""),
        "shadow_models": about["shadow_models"],
        "limits": limits(len(entry["patients"]), about["shadow_models"], bool(cohort.synthetic)),
        "provenance": {**provenance(), "cohort_fingerprint": about["cohort_fingerprint"]},
    }


def limits(patients: int, shadow_models: int, synthetic: bool) -> list[str]:
    """What the evidence can't show, in plain words."""
    found = [
        "The evidence is about the attacks that were run. That none of them succeeds is no proof "
        "that none can.",
        f"It rests on {patients} patient{'s' if patients != 1 else ''}. Intervals and verdicts "
        "allow for that number; differences smaller than an interval is wide can't be seen.",
        "No model was retrained without these patients; strangers are the reference.",
        "The model was made to forget, not the copies of the data. Records in archives, backups "
        "and caches, and copies of the earlier model, have to be deleted where they are.",
    ]
    if shadow_models == 0:
        found.append(
            "The attacks that need shadow models (LiRA, RMIA), the strongest here, were not run: "
            "none were trained."
        )
    if synthetic:
        found.append("The cohort is synthetic: no real person stands behind this request.")
    return found


def judged_patients(
    table: pd.DataFrame, codes: np.ndarray, hashed: Callable[[str], str]
) -> list[dict[str, Any]]:
    """The verdict on each patient, worst first, under their hashed id."""
    names = [hashed(codes[patient]) for patient in table.patient]
    text = {name: table[name].astype(object).fillna("") for name in ("looks", "reason")}
    return records(table.assign(patient=names, **text).drop(columns=["model", "score"]))


def report_figures(run: Run, facts: Mapping[str, Any]) -> list[tuple[str, str, Figure]]:
    """Title, what it shows in words, and picture."""
    audit, name = run.stage("04_audit"), facts["done"]["approach"]
    models = ["original", name]
    losses, scores = pd.read_csv(audit / "losses.csv"), pd.read_csv(audit / "scores.csv")
    attack = scores.attack.iloc[0]
    by_model = {model: scores_of(scores, model) for model in models}
    tables = (pd.read_csv(audit / f"{which}.csv") for which in ("patients", "strangers"))
    patients, strangers = (table[table.model.isin(models)] for table in tables)
    found = [
        (
            "Each patient among the strangers",
            "Mean score of each requested patient and of strangers, before and after. To the right "
            "of the bar lie 5 % of the strangers.",
            audit_plots.patients_among_strangers(patients, strangers, f"{attack} score"),
        ),
        (
            "Losses before and after",
            "Cross-entropy of the requested patients' records and of strangers' records. After "
            "forgetting both should lie on one another.",
            plots.loss_histograms(losses, models),
        ),
        (
            f"What the {attack} attack sees",
            "How the attack scores the requested patients' records and strangers' records, before "
            "and after.",
            audit_plots.score_histograms(by_model, f"{attack} score"),
        ),
        (
            "Finding members without accusing strangers",
            "Receiver operating characteristic of that attack; the right panel magnifies low false "
            "positive rates.",
            audit_plots.low_fpr_roc(by_model, attack),
        ),
        (
            "Check by check",
            "The gap of each attack to its reference, with intervals that hold for all checks "
            "together.",
            audit_plots.verdict_gaps(
                _of(audit / "checks.csv", name).query("level == 'sample'"), "by record"
            ),
        ),
    ]
    if facts["relearning"]:
        curves = pd.read_csv(audit / "relearning_curves.csv")
        drawn = audit_plots.relearning_curves(
            curves[curves.model.isin(models)], float(curves.level.iloc[0])
        )
        caption = (
            "How fast the model learns the requested patients again, beside as many strangers."
        )
        found.append(("Learning them again", caption, drawn))
    if (audit / "earlier.csv").is_file():
        found.append(earlier_figure(run))
    return found


def earlier_figure(run: Run) -> tuple[str, str, Figure]:
    """The patients of earlier requests, looked at again."""
    losses = pd.read_csv(run.stage("04_audit") / "losses.csv")
    again = losses[losses.set != "forget"].assign(set=lambda t: t.set.replace("earlier", "forget"))
    text = (
        "Cross-entropy of the patients of earlier requests, before and after this request, "
        "beside strangers'."
    )
    return "Earlier requests", text, plots.loss_histograms(again, ["original", run.unlearned_name])


def scores_of(table: pd.DataFrame, model: str) -> Scores:
    """One model's scores from scores.csv."""
    rows = table[table.model == model]
    return Scores(*(rows.score[rows.set == side].to_numpy() for side in ("forget", "test")))


def embedded(figure: Figure) -> str:
    """A figure as a data address that an HTML page can hold."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None})
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def records(table: pd.DataFrame) -> list[dict[str, Any]]:
    """A table's rows as JSON has them: NaN, which it does not know, as None."""
    return json.loads(table.to_json(orient="records", double_precision=6))


def _of(path: Path, model: str) -> pd.DataFrame:
    table = pd.read_csv(path)
    return table[table.model == model]
