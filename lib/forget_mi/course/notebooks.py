"""The course's notebooks: which there are, and an exercise from its solution."""

from __future__ import annotations

import ast
import json
from pathlib import Path

from forget_mi.files import write_text

LESSONS = (
    "01_memorisation",
    "02_membership_inference",
    "03_gold_standard",
    "04_four_losses",
    "05_baselines",
    "06_stronger_attacks",
    "07_held_out_targets",
    "08_deletion_request",
    "09_ways_out",
    "10_real_patients",
)


# Lessons and solutions read what the chain left; lesson 6 wants the shadow models as well.
EXECUTED = tuple(f"course/{lesson}{part}" for lesson in LESSONS for part in ("", "_solution"))
BEGIN, END = "# answer:", "# end of answer"


def write_exercises(folder: Path) -> None:
    """Make every exercise in a folder of the course from the solution beside it."""
    for solution in sorted(Path(folder).glob("*_solution.ipynb")):
        exercise = solution.with_name(solution.name.replace("_solution", "_exercise"))
        write_text(exercise, make_exercise(solution.read_text()))


def make_exercise(solution: str) -> str:
    """The exercise's notebook (JSON) from its solution's: what stands between the marks is replaced
    by three dots, a name for each answer that is not inside of a function; outputs are left out.

    Raises ValueError where a mark has no counterpart.
    """
    notebook = json.loads(solution)
    for cell in notebook["cells"]:
        source = "".join(cell["source"])
        if cell["cell_type"] == "code":
            cell |= {"outputs": [], "execution_count": None}
            source = remove_answers(source)
        else:
            source = source.replace("# Solution", "# Exercise", 1)
        cell["source"] = source.splitlines(keepends=True)
    return json.dumps(notebook, indent=1, sort_keys=True, ensure_ascii=False) + "\n"


def remove_answers(source: str) -> str:
    """A cell's code without its answers."""
    lines, answer, kept = source.splitlines(), None, []
    for line in lines:
        if line.strip() == BEGIN:
            answer = []
        elif line.strip() == END:
            if answer is None:
                raise ValueError(f"{END!r} without {BEGIN!r} in a cell that begins {lines[0]!r}")
            indent = line[: len(line) - len(line.lstrip())]
            name = (
                f"{ast.parse(chr(10).join(answer)).body[-1].targets[0].id} = " if not indent else ""
            )
            kept.append(f"{indent}{name}...  # your answer")
            answer = None
        elif answer is not None:
            answer.append(line)
        else:
            kept.append(line)
    if answer is not None:
        raise ValueError(f"{BEGIN!r} without {END!r} in a cell that begins {lines[0]!r}")
    return "\n".join(kept)
