"""The status page of a service: a static HTML file and the same as JSON, each written whole."""

from __future__ import annotations

import json
from datetime import datetime
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from forget_mi.files import write_text
from forget_mi.requests.ledger import ledger_problems
from forget_mi.requests.served_model import ServedModel

REFUSED = "refused"  # the folder of the inbox for what can't be served


def write_status(served_model: ServedModel, facts: dict[str, Any]) -> None:
    """Write requests/status.json and requests/status.html below the run."""
    folder = served_model.folder / "requests"
    write_text(folder / "status.json", json.dumps(facts, indent=2) + "\n")
    environment = Environment(
        loader=PackageLoader("forget_mi.requests", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    page = environment.get_template("status.html.j2").render(facts=facts)
    write_text(folder / "status.html", page)


def status_facts(
    served_model: ServedModel,
    *,
    policy: str,
    inbox: Path,
    waiting: list[dict[str, Any]],
    next_due: datetime | None,
    trouble: str,
) -> dict[str, Any]:
    """Policy, what the alarm said after the last request, what waits, what was served with which
    verdict, what was refused, and what is wrong; hashed ids only."""
    refused = []
    aside = inbox / REFUSED
    if aside.is_dir():
        for path in sorted(aside.glob("*.reason.txt")):
            name = path.name.removesuffix(".reason.txt")
            refused.append({"file": name, "reason": path.read_text().strip()})
    ledger = served_model.ledger
    served = [
        {
            "number": entry["number"],
            "served": entry["served"],
            "patients": entry["patients"],
            "approach": entry["approach"],
            "verdict": entry.get("verdict", ""),
            "in_words": entry.get("in_words", ""),
            "report": entry.get("report", ""),
        }
        for entry in ledger
    ]
    return {
        "model": served_model.folder.name,
        "policy": policy,
        "alarm": ledger[-1].get("wear") if ledger else None,
        "waiting": [
            {name: item[name] for name in ("number", "received", "urgent", "patients")}
            for item in waiting
        ],
        "next_due": next_due and next_due.isoformat(),
        "served": served,
        "refused": refused,
        "ledger": ledger_problems(served_model.folder),
        "trouble": trouble,
    }
