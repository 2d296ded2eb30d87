"""`make peers`: the peers' own code on our model and request, judged by our audit, beside ours and
retraining; benchmarks/peers.csv. What is done already is kept, as long as no code of it changes.

`make peers ONLY="erasus"`: one of them.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pandas as pd
import study
from environment import python_of

from forget_mi.files import write_text
from forget_mi.source_code import code_fingerprint
from forget_mi.studies.documents import write_document_table

HERE = Path(__file__).parent
TABLE = HERE.parent / "peers.csv"
PEERS = ("ours", "supreme", "erasus", "torchunlearn")
TOWERS = ("both", "image")
FIRST = ["package", "version", "method", "towers", "settings", "seed"]
LAST = [*study.COLUMNS, *study.COSTS, "peak_memory_mb", "ended", "patched"]


def main(names: list[str]) -> None:
    """Run the named peers, or all, then write the table of all that there is."""
    unknown = [name for name in names if name not in PEERS]
    if unknown:
        raise SystemExit(f"peer {unknown[0]!r}: allowed are {', '.join(PEERS)}")
    for name in names or PEERS:
        peer = importlib.import_module(f"{name}_peer")
        python = sys.executable
        if name != "ours":
            alone = (f"{peer.PACKAGE}=={peer.VERSION}", *peer.NEEDS)
            python = python_of(name, alone, peer.WHOLE)
        for method, towers in jobs(name, peer):
            outcome = outcome_of(name, method, towers)
            if outcome.is_file():
                continue
            print(f"{peer.PACKAGE} {method}, {towers}", flush=True)
            command = [python, HERE / "in_peer.py", name, method, towers, outcome]
            log = outcome.with_suffix(".log")
            log.parent.mkdir(parents=True, exist_ok=True)
            with log.open("w") as stream:
                code = subprocess.run(
                    command,
                    stdout=stream,
                    stderr=stream,
                    env=os.environ | {"WANDB_MODE": "disabled"},
                ).returncode
            if code:
                raise SystemExit(f"{peer.PACKAGE} {method}, {towers}: stopped; see {log}")
    table = collected()
    write_text(TABLE, table.to_csv(index=False, float_format="%.4g"))
    write_document_table("peers", summary(table))


def jobs(name: str, peer: ModuleType) -> Iterator[tuple[str, str]]:
    """(method, towers) of a peer."""
    for method in peer.METHODS:
        for towers in TOWERS:
            if peer.runs_on(method, towers) if name == "ours" else towers in method.towers:
                yield (method if name == "ours" else method.name), towers


def outcome_of(name: str, method: str, towers: str) -> Path:
    """Where a job's rows go: by its code, so that a change of it makes them anew."""
    own = [HERE / f"{part}.py" for part in ("method", "study", "in_peer", f"{name}_peer")]
    digest = hashlib.sha256(b"".join(path.read_bytes() for path in own))
    digest.update(code_fingerprint("studies.study").encode())
    return study.FOLDER / "rows" / f"{name}-{method}-{towers}-{digest.hexdigest()[:12]}.json"


def collected() -> pd.DataFrame:
    """All rows that there are, and one for each method of a peer that can't run here."""
    rows = []
    for name in PEERS:
        peer = importlib.import_module(f"{name}_peer")
        for method, towers in jobs(name, peer):
            outcome = outcome_of(name, method, towers)
            rows += json.loads(outcome.read_text()) if outcome.is_file() else []
        about = {"package": peer.PACKAGE, "version": peer.VERSION}
        rows += [about | {"method": m, "ended": why} for m, why in peer.LEFT_OUT.items()]
    return pd.DataFrame(rows).reindex(columns=FIRST + LAST)


def summary(table: pd.DataFrame) -> pd.DataFrame:
    """The page's table: a row a method and kind of settings, means over seeds; of the gap, the
    lowest and highest as well."""
    rows = []
    kept = table[table.mean_gap.notna()]
    for key, group in kept.groupby(FIRST[:5], sort=False, dropna=False):
        gap = group.mean_gap
        rows.append(
            {
                "package": key[0],
                "method": key[2],
                "towers": key[3],
                "settings": key[4] or "",
                "found": f"{group.patients_found_at_5pct.mean():.2f}",
                "gap": f"{gap.mean():.3f} [{gap.min():.3f}, {gap.max():.3f}]",
                "LiRA": f"{group.lira_auc.mean():.2f}",
                "by patient": f"{group.lira_patient_auc.mean():.2f}",
                "test AUC": f"{group.test_auc.mean():.3f}",
                "work": _mean(group.share_of_retraining, ".2f"),
                "MB": _mean(group.peak_memory_mb, ".0f"),
            }
        )
    return pd.DataFrame(rows)


def _mean(column: pd.Series, form: str) -> str:
    return "" if column.isna().all() else f"{column.mean():{form}}"


if __name__ == "__main__":
    main(sys.argv[1:])
