"""The status page of a service: a static HTML file and the same as JSON, each written whole."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from forget_mi.files import write_text
from forget_mi.requests.ledger import ledger_problems

if TYPE_CHECKING:
    from forget_mi.requests.service import Service


def write_status(service: Service, state: dict[str, Any], trouble: str = "") -> dict[str, Any]:
    """Write requests/status.json and requests/status.html below the run; return the facts."""
    facts = status_facts(service, state, trouble)
    folder = service.model / "requests"
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
    return facts


def status_facts(service: Service, state: dict[str, Any], trouble: str) -> dict[str, Any]:
    """Policy, what waits, what was served and with which verdict, what was refused, and what is
    wrong; hashed ids only."""
    waiting = [item for item in state["items"] if item["request"] is None]
    due = service.next_due(state)
    refused = []
    aside = service.inbox / "refused"
    if aside.is_dir():
        for path in sorted(aside.glob("*.reason.txt")):
            name = path.name.removesuffix(".reason.txt")
            refused.append({"file": name, "reason": path.read_text().strip()})
    served = [
        {
            "number": entry["number"],
            "served": entry["served"],
            "patients": entry["patients"],
            "approach": entry["approach"],
            "verdict": entry.get("verdict", ""),
            "report": entry.get("report", ""),
        }
        for entry in service.served_model.ledger
    ]
    return {
        "model": service.model.name,
        "policy": service.policy,
        "waiting": [
            {name: item[name] for name in ("number", "received", "urgent", "patients")}
            for item in waiting
        ],
        "next_due": due and due.isoformat(),
        "served": served,
        "refused": refused,
        "ledger": ledger_problems(service.model),
        "trouble": trouble,
    }
