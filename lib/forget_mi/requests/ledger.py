"""The ledger of a model in use: a line a served request, chained by hashes, so that a line that was
changed, dropped or reordered is found.

Each line holds the hash of the one before (`previous`; of the first, the original model's weights)
and its own (`hash`, the SHA-256 of its other fields as JSON with sorted keys). What a chain cannot
show is that its end was cut off; the requests' folders and reports do.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from forget_mi.errors import InputError
from forget_mi.files import sha256_of_text, write_text
from forget_mi.models import read_manifest
from forget_mi.runs import display_path

Entry = dict[str, Any]


def ledger_path(model: Path) -> Path:
    """Of a run folder."""
    return model / "requests" / "ledger.json"


def read_ledger(model: Path) -> list[Entry]:
    """One entry a served request, in order. Raises InputError where the file is damaged."""
    path = ledger_path(model)
    if not path.is_file():
        return []
    try:
        return json.loads(path.read_text())["requests"]
    except (ValueError, KeyError) as error:
        raise InputError(
            f"{display_path(path)}: is damaged ({error}); restore it before any request is served"
        ) from None


def append_entry(model: Path, entry: Mapping[str, Any]) -> None:
    """Add a line, chained to the last one; the file is written whole or not at all."""
    entries = read_ledger(model)
    before = own_hash(entries[-1]) if entries else first_hash(model)
    chained = {**entry, "previous": before}
    chained["hash"] = entry_hash(chained)
    text = json.dumps({"requests": [*entries, chained]}, indent=2)
    write_text(ledger_path(model), text + "\n")


def first_hash(model: Path) -> str:
    """What the first line is chained to: the weights of the model that the requests came to."""
    return read_manifest(model / "02_train" / "original")["weights_sha256"]


def entry_hash(entry: Mapping[str, Any]) -> str:
    """The hash of a line, from all its fields but itself."""
    fields = {name: value for name, value in entry.items() if name != "hash"}
    return sha256_of_text(json.dumps(fields, sort_keys=True, ensure_ascii=True))


def own_hash(entry: Mapping[str, Any]) -> str:
    """The hash that a line says it has; of one from before there were any, what it would be."""
    return entry.get("hash") or entry_hash(entry)


def ledger_problems(model: Path) -> list[str]:
    """What is wrong with a run's ledger, a line each; empty where it is whole.

    Raises InputError where it can't be read at all.
    """
    entries, found = read_ledger(model), []
    for place, entry in enumerate(entries, start=1):
        if "hash" not in entry:
            found.append(f"line {place}: has no hash; an earlier version wrote it")
        elif entry["hash"] != entry_hash(entry):
            found.append(f"line {place} (request {entry.get('number')}): was changed")
    found += _broken_links(model, entries)
    found += _folders_without_line(model, entries)
    return found


def _broken_links(model: Path, entries: Sequence[Entry]) -> list[str]:
    """Where a line does not follow the one above it."""
    found, before = [], first_hash(model)
    known = {before, *map(own_hash, entries)}
    for place, entry in enumerate(entries, start=1):
        follows, name = entry.get("previous"), f"line {place} (request {entry.get('number')})"
        if follows != before and "hash" in entry:
            if place == 1 and entry.get("number") == 1:
                found.append(f"{name}: is of another model")
            elif follows in known:
                found.append(f"{name}: is out of order")
            else:
                found.append(f"{name}: the one before it is gone")
        before = own_hash(entry)
    return found


def _folders_without_line(model: Path, entries: Sequence[Entry]) -> list[str]:
    """Served requests whose line is not there: the end was cut off."""
    numbers = {entry.get("number") for entry in entries}
    reports = sorted((model / "requests").glob("[0-9]*/report.json"))
    return [
        f"request {int(path.parent.name)}: has a report and no line"
        for path in reports
        if int(path.parent.name) not in numbers
    ]
