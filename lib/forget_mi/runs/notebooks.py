"""The committed notebooks, executed and written with clean outputs."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from forget_mi.files import write_text
from forget_mi.runs.chain import compared_overrides, execute
from forget_mi.runs.project import ROOT
from forget_mi.runs.run import open_run

WIDGET = "application/vnd.jupyter.widget-view+json"


def rebuild_notebooks(
    names: Sequence[str],
    target: Path = ROOT / "notebooks",
    parameters: Mapping[str, Any] | None = None,
) -> None:
    """Execute notebooks and write them to `target` with clean outputs: no times, no paths, no
    progress bars.

    parameters: put in place of the values in the parameters cell; without any, the notebooks run as
    they stand (the demo profile), which is how the committed ones are made.
    """
    os.environ["FORGET_MI_PROGRESS"] = "0"
    with tempfile.TemporaryDirectory() as folder:
        for name in names:
            source, executed = (
                Path(folder) / f"{name}.ipynb",
                Path(folder) / "executed" / f"{name}.ipynb",
            )
            source.parent.mkdir(parents=True, exist_ok=True)
            source.write_text(
                with_parameters(
                    (ROOT / "notebooks" / f"{name}.ipynb").read_text(), parameters or {}
                )
            )
            execute(source, executed, {})
            write_text(target / f"{name}.ipynb", clean_notebook(executed.read_text()))
            if name == "03_unlearn":  # those that 04 and 05 compare with
                given = {"profile": "demo", "run_dir": None, **(parameters or {})}
                run = open_run(given["profile"], given["run_dir"])
                for changes in compared_overrides(run, given["profile"]):
                    execute(source, executed, {"overrides": changes})


def with_parameters(text: str, parameters: Mapping[str, Any]) -> str:
    """A notebook's JSON with some names in its parameters cell set to other values."""
    notebook = json.loads(text)
    for cell in notebook["cells"]:
        if "parameters" in cell["metadata"].get("tags", []):
            lines = "".join(cell["source"]).splitlines()
            for name, value in parameters.items():
                lines = [
                    f"{name} = {json.dumps(value)}" if line.split(" = ")[0] == name else line
                    for line in lines
                ]
            cell["source"] = "\n".join(lines).splitlines(keepends=True)
    return json.dumps(notebook)


def clean_notebook(text: str) -> str:
    """A notebook's JSON without what changes from run to run: papermill's and the kernel's
    metadata, cell ids of the moment, widgets (which are nothing without a kernel), standard error,
    and the outputs of cells tagged `timing`."""
    notebook = json.loads(text)
    notebook["metadata"] = {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }
    cells = [
        cell
        for cell in notebook["cells"]
        if "injected-parameters" not in cell["metadata"].get("tags", [])
    ]
    for number, cell in enumerate(cells):
        cell["id"] = f"cell-{number:02d}"
        tags = cell["metadata"].get("tags", [])
        cell["metadata"] = {"tags": tags} if tags else {}
        if cell["cell_type"] == "code":
            outputs = [
                o
                for o in cell["outputs"]
                if o.get("name") != "stderr" and WIDGET not in o.get("data", {})
            ]
            cell["outputs"] = [] if "timing" in tags else outputs
            for output in cell["outputs"]:
                output.pop("metadata", None) if output[
                    "output_type"
                ] == "stream" else output.update(metadata={})
    notebook["cells"] = cells
    return json.dumps(notebook, indent=1, sort_keys=True, ensure_ascii=False) + "\n"
