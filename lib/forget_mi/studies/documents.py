"""Tables: those of figures/, finished in parts, and those in the README and the docs, between two
markers."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from forget_mi.files import write_text
from forget_mi.runs import ROOT


def without_zero(text: str) -> str:
    """.5 for 0.5, as the README's tables have it."""
    return re.sub(r"\b0\.", ".", text)


def with_earlier_rows(table: pd.DataFrame, path: Path, keys: Sequence[str]) -> pd.DataFrame:
    """The rows of a CSV whose keys are not in the table, then the table: a study may be finished in
    parts. A file without these keys is another table, of which nothing stays."""
    earlier = pd.read_csv(path) if path.is_file() else pd.DataFrame()
    if not set(keys) <= set(earlier):
        return table
    again = pd.MultiIndex.from_frame(earlier[[*keys]]).isin(
        pd.MultiIndex.from_frame(table[[*keys]])
    )
    parts = [part for part in (earlier[~again], table) if len(part)]
    return pd.concat(parts, ignore_index=True) if parts else table


def of_hundred(value: float, low: float, high: float) -> str:
    """A share and its interval as '8 [0, 17]' of a hundred."""
    return f"{100 * value:.0f} [{100 * low:.0f}, {100 * high:.0f}]"


def write_document_table(marker: str, table: pd.DataFrame) -> None:
    """Put a table between two markers, in the README and in each page of the docs that has them.

    Raises ValueError where none has.
    """
    lines = ["| " + " | ".join(table.columns) + " |", "|" + "---|" * len(table.columns)]
    lines += [
        "| " + " | ".join(without_zero(cell) for cell in row) + " |"
        for row in table.itertuples(index=False)
    ]
    begin, end = f"<!-- {marker}:begin -->", f"<!-- {marker}:end -->"
    pages = [
        path
        for path in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))
        if begin in path.read_text()
    ]
    if not pages:
        raise ValueError(f"no page has the marker {begin}")
    for path in pages:
        before, rest = path.read_text().split(begin)
        after = rest.split(end)[1]
        write_text(path, f"{before}{begin}\n" + "\n".join(lines) + f"\n{end}{after}")
