"""Reading the CSV files that come with a collection, in whatever dialect they were saved."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from forget_mi.errors import InputError


def read_table(path: Path, needed: Sequence[str | tuple[str, ...]], what: str) -> pd.DataFrame:
    """A CSV file as strings, stripped: comma, semicolon or tab between cells, with or without a
    byte-order mark; repeated header lines and empty lines are passed over. Column `line` is the
    line in the file.

    needed: columns that must be there; of a tuple one, which gets the tuple's first name. what: for
    messages. Raises InputError where the file is missing, not text, without one of them, or has a
    line of another length.
    """
    path = Path(path)
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(
            f"{path}: can't be read as {what} ({' '.join(str(error).split())})"
        ) from None
    first = text.split("\n", 1)[0]
    delimiter = max(",;\t", key=first.count)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
    try:
        lines = [(reader.line_num, [cell.strip() for cell in cells]) for cells in reader]
    except csv.Error as error:
        raise InputError(
            f"{path}: line {reader.line_num} can't be read as {what} ({error})"
        ) from None
    lines = [(number, cells) for number, cells in lines if any(cells)]
    if not lines:
        raise InputError(f"{path}: is empty; {what} is expected")
    header = lines[0][1]
    rows = []
    for number, cells in lines[1:]:
        if cells == header:
            continue
        if len(cells) != len(header):
            raise InputError(
                f"{path}: line {number} has {len(cells)} cells, the header {len(header)}"
            )
        rows.append([*cells, number])
    table = pd.DataFrame(rows, columns=[*header, "line"])
    for names in needed:
        names = (names,) if isinstance(names, str) else names
        found = next((name for name in names if name in header), None)
        if found is None:
            raise InputError(
                f"{path}: lacks the column {' or '.join(names)}; it has {', '.join(header)}"
            )
        table = table.rename(columns={found: names[0]})
    return table
