"""The explorer as a web page without code, served by voila as `make explore` does."""

import sys

import pytest
from servers import free_port, server
from widgets import move_first_slider

from forget_mi.runs.chain import run_chain
from forget_mi.runs.notebooks import with_parameters
from forget_mi.runs.project import ROOT


@pytest.fixture(scope="module")
def explorer(tmp_path_factory):
    """The address of the explorer on a tiny run."""
    folder = tmp_path_factory.mktemp("voila")
    chain = ["01_cohort", "02_train", "03_unlearn"]
    tiny_run = run_chain("tiny", folder / "run", {"shadows.count": 0}, chain, progress=False).folder
    parameters = {"profile": "tiny", "run_dir": str(tiny_run), "overrides": {"shadows.count": 0}}
    notebook = (ROOT / "notebooks" / "explore.ipynb").read_text()
    (folder / "explore.ipynb").write_text(with_parameters(notebook, parameters))
    url = f"http://127.0.0.1:{(port := free_port())}"
    command = [
        sys.executable,
        "-m",
        "voila",
        "explore.ipynb",
        "--no-browser",
        f"--port={port}",
        "--theme=light",
    ]
    with server(command, f"{url}/voila/static/main.js", folder / "voila.log", folder):
        yield url


def test_the_page_has_no_code_and_its_sliders_move_the_picture(explorer, chromium):
    page = chromium.new_page(viewport={"width": 1200, "height": 900})
    try:
        page.goto(explorer, wait_until="domcontentloaded", timeout=120_000)
        shown = page.locator("img[alt^='Corrupted copy']")
        shown.wait_for(timeout=120_000)
        assert page.locator(".jp-CodeMirrorEditor, .jp-InputArea-editor:visible").count() == 0
        assert "Explorer(" not in page.inner_text("body")
        move_first_slider(page, shown)
    finally:
        page.close()
