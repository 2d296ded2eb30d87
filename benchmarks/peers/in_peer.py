"""Runs inside a peer's environment: one method on one kind of model, by its published settings and
by those that our rule chose; a JSON file with a row a seed each.

in_peer.py PEER METHOD TOWERS OUTCOME
"""

from __future__ import annotations

import importlib
import importlib.metadata
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import study
from method import PeerMethod

from forget_mi.config import build
from forget_mi.files import write_text


def main(name: str, method: str, towers: str, outcome: str) -> None:
    """Command line."""
    peer = importlib.import_module(f"{name}_peer")
    installed = importlib.metadata.version(peer.PACKAGE)
    if installed != peer.VERSION:
        raise SystemExit(f"{peer.PACKAGE} {installed}: this adapter is for {peer.VERSION}")
    about = {"package": peer.PACKAGE, "version": peer.VERSION}
    if name == "ours":
        rows = [about | row for row in peer.run(method, towers)]
    else:
        found = next(m for m in peer.METHODS if m.name == method)
        rows = [about | row | {"patched": found.patched} for row in run(found, towers)]
    write_text(Path(outcome), json.dumps(rows, indent=1) + "\n")


def run(method: PeerMethod, towers: str) -> list[dict[str, Any]]:
    """A row for each seed and for the published and, where the method leaves a choice, the chosen
    settings."""
    settings: dict[str, Mapping[str, Any]] = {"published": {}}
    if method.SEARCH and (found := study.chosen(method, towers)) is not None:
        settings["tuned"] = found
    rows = []
    for seed in study.SEEDS:
        opened = study.open_study(towers, seed)
        for how, values in settings.items():
            forget = study.by_peer(opened, method, build(method.Config, values, method.name))
            rows.append(study.judged(opened, method.name, towers, how, forget))
    return rows


if __name__ == "__main__":
    main(*sys.argv[1:])
