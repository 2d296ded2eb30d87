"""The notebooks as people use them: opened in JupyterLab in a real browser, Run All Cells."""

import json
import sys
import time
import urllib.request

import pytest
from servers import free_port, server
from widgets import move_first_slider

from forget_mi.runs.chain import NOTEBOOKS
from forget_mi.runs.notebooks import with_parameters
from forget_mi.runs.project import ROOT

PATIENCE = 150  # seconds for one notebook on a busy machine


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    """A JupyterLab on copies of the notebooks that run the tiny profile: its address and its
    folder."""
    folder = tmp_path_factory.mktemp("lab")
    parameters = {
        "profile": "tiny",
        "run_dir": str(folder / "run"),
        "overrides": {"shadows.count": 0},
    }
    for name in (*NOTEBOOKS, "explore"):
        notebook = json.loads(
            with_parameters((ROOT / "notebooks" / f"{name}.ipynb").read_text(), parameters)
        )
        for cell in notebook["cells"]:
            cell.update(
                {"outputs": [], "execution_count": None} if cell["cell_type"] == "code" else {}
            )
        (folder / f"{name}.ipynb").write_text(json.dumps(notebook))
    port = free_port()
    command = [
        *(sys.executable, "-m", "jupyter", "lab", "--no-browser", "--allow-root", f"--port={port}"),
        *(
            f"--ServerApp.root_dir={folder}",
            "--IdentityProvider.token=",
            "--ServerApp.disable_check_xsrf=True",
        ),
        *(
            f"--LabApp.workspaces_dir={folder / 'workspaces'}",
            f"--LabApp.user_settings_dir={folder / 'settings'}",
        ),
    ]
    url = f"http://127.0.0.1:{port}"
    with server(command, f"{url}/api", folder / "lab.log", folder):
        yield url, folder


def code_cells(path) -> list[dict]:
    """The code cells of a notebook file that JupyterLab may be saving: it writes into the file
    itself, which for that moment is empty or has its beginning only, and is read again."""
    for _ in range(100):
        try:
            return [
                cell
                for cell in json.loads(path.read_text())["cells"]
                if cell["cell_type"] == "code"
            ]
        except ValueError:  # of the JSON, or of a character that is half there
            time.sleep(0.1)
    raise AssertionError(f"{path}: no notebook in 10 s, {path.stat().st_size} bytes")


def pictures(cells) -> int:
    return sum("image/png" in o.get("data", {}) for cell in cells for o in cell["outputs"])


def kernel_is_ready(url: str, notebook: str) -> bool:
    """Whether the server has a kernel for the notebook that has answered, and to which the page is
    connected."""
    with urllib.request.urlopen(f"{url}/api/sessions", timeout=10) as answer:
        kernels = [
            session["kernel"] for session in json.load(answer) if session["path"] == notebook
        ]
    return any(
        kernel["execution_state"] == "idle" and kernel["connections"] > 0 for kernel in kernels
    )


def accept_kernel(page) -> None:
    """Take the kernel that JupyterLab offers: on a busy machine it asks for one before it has the
    notebook's own."""
    offered = page.locator(".jp-Dialog button.jp-mod-accept")
    if offered.count():
        offered.first.click()


def run_all(name: str, lab, chromium):
    """The page of a notebook on which Run All Cells has finished without an error."""
    url, folder = lab
    path = folder / f"{name}.ipynb"
    page = chromium.new_page(viewport={"width": 1400, "height": 1000})
    page.goto(f"{url}/lab/tree/{name}.ipynb?reset", wait_until="domcontentloaded")
    page.wait_for_selector(".jp-Notebook .jp-CodeCell", timeout=60_000)
    started, clicked = time.monotonic(), None
    while True:
        accept_kernel(page)
        nothing_yet = all(cell["execution_count"] is None for cell in code_cells(path))
        # A kernel that has just been started may still lose what is run: then Run is pressed again.
        if (
            nothing_yet
            and kernel_is_ready(url, path.name)
            and (clicked is None or time.monotonic() - clicked > 15)
        ):
            page.click(".lm-MenuBar-item >> text=Run")
            page.click(".lm-Menu-item >> text=/^Run All Cells$/")
            clicked = time.monotonic()
        page.wait_for_timeout(1500)
        page.keyboard.press("Control+s")
        page.wait_for_timeout(500)
        cells = code_cells(path)
        errors = [o for cell in cells for o in cell["outputs"] if o["output_type"] == "error"]
        assert not errors, errors[0]["evalue"]
        if [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1)):
            break
        waited = time.monotonic() - started
        assert waited < PATIENCE, f"{name}: not finished after {waited:.0f} s"
    page.wait_for_selector(".jp-RenderedMarkdown h1, .jp-RenderedHTMLCommon h1", timeout=10_000)
    assert (
        page.locator(".jp-RenderedText[data-mime-type='application/vnd.jupyter.error']").count()
        == 0
    )
    return page


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_run_all_cells_finishes_without_an_error_and_draws_its_figures(name, lab, chromium):
    drawn = pictures(code_cells(ROOT / "notebooks" / f"{name}.ipynb"))
    run_all(name, lab, chromium).close()
    assert pictures(code_cells(lab[1] / f"{name}.ipynb")) == drawn > 0


def test_the_explorer_draws_its_widgets_and_a_slider_moves_the_picture(lab, chromium):
    """After the five notebooks, whose run it reads."""
    page = run_all("explore", lab, chromium)
    try:
        shown = page.locator(".jp-OutputArea img[alt^='Corrupted copy']")
        shown.wait_for(timeout=20_000)
        move_first_slider(page, shown)
        answers = page.locator(".jp-OutputArea img[alt^='Radiographs']")
        before = answers.get_attribute("src")
        page.locator(".widget-dropdown select").select_option(index=3)
        page.wait_for_function(
            "src => document.querySelector(\".jp-OutputArea img[alt^='Radiographs']\").src != src",
            arg=before,
            timeout=20_000,
        )
    finally:
        page.close()
