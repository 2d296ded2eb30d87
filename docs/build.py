"""`make docs`: the site into docs/_build/html, and the lessons' slides below it; no network is
needed.

docs/_build/html/docs/index.html    the start page (index.html leads there)
docs/_build/html/slides/            a deck of slides a lesson, from the lesson's notebook
"""

from __future__ import annotations

import argparse
import re
import shutil
import sys
import time
from pathlib import Path

import nbformat
import sphinx_revealjs
from nbconvert import SlidesExporter
from sphinx.cmd.build import main as sphinx_build
from traitlets.config import Config

from forget_mi.course.notebooks import LESSONS

HERE = Path(__file__).parent
ROOT, SITE = HERE.parent, HERE / "_build" / "html"
NAMED = '<summary aria-label="show or hide the pages below">'
TO_START = (
    '<meta charset="utf-8"><title>forget-mi</title><meta http-equiv="refresh" content="0; '
    'url=docs/index.html">'
)


def main(arguments: list[str] | None = None) -> int:
    """Build the site; any warning is an error."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--target", type=Path, default=SITE, help="where it goes")
    target = parser.parse_args(arguments).target.resolve()
    started = time.perf_counter()
    shutil.rmtree(target, ignore_errors=True)
    options = [
        "-q",
        "-W",
        "--keep-going",
        "-b",
        "html",
        "-c",
        str(HERE),
        "-d",
        str(target.with_name("doctrees")),
    ]
    failed = sphinx_build([*options, str(ROOT), str(target)])
    if failed:
        return failed
    sys.path.insert(0, str(HERE))
    from conf import MATHJAX

    shutil.copytree(MATHJAX, target / "_static" / "mathjax", dirs_exist_ok=True)
    for page in target.rglob(
        "*.html"
    ):  # the theme's toggles of the menu have no name for a screen reader
        text = page.read_text()
        named = text.replace(
            '<summary><span class="toctree-toggle"', f'{NAMED}<span class="toctree-toggle"'
        )
        page.write_text(named) if named != text else None
    (target / "index.html").write_text(f"<!doctype html><html lang=en>{TO_START}</html>")
    make_slides(target)
    print(f"{target.relative_to(ROOT) if target.is_relative_to(ROOT) else target}/index.html: "
          f"{len(list(target.rglob('*.html')))} pages in {time.perf_counter() - started:.0f} "
          f"s")  # fmt: skip
    return 0


def make_slides(target: Path) -> None:
    """A deck a lesson; reveal.js and MathJax lie in the site."""
    slides = target / "slides"
    slides.mkdir(parents=True)
    revealjs = Path(sphinx_revealjs.__file__).parent / "_static" / "revealjs"
    shutil.copytree(revealjs / "dist", slides / "reveal" / "dist")
    for theme in (slides / "reveal" / "dist" / "theme").glob(
        "*.css"
    ):  # fonts that would be fetched
        theme.write_text(re.sub(r"@import url\([^)]*//[^)]*\);?", "", theme.read_text()))
    config = Config()
    config.SlidesExporter.template_paths = [str(HERE / "slides"), *SlidesExporter().template_paths]
    config.SlidesExporter.template_file = "index.html.j2"
    config.SlidesExporter.reveal_url_prefix = "reveal"
    config.SlidesExporter.exclude_input_prompt = config.SlidesExporter.exclude_output_prompt = True
    config.SlidesExporter.exclude_anchor_links = True
    exporter = SlidesExporter(config=config)
    for lesson in LESSONS:
        notebook = with_slides((ROOT / "notebooks" / "course" / f"{lesson}.ipynb").read_text())
        page, _ = exporter.from_notebook_node(notebook, {"metadata": {"name": lesson}})
        (slides / f"{lesson}.html").write_text(page)


def with_slides(text: str) -> nbformat.NotebookNode:
    """A lesson with a slide for each heading: a cell of prose with a heading begins one, each
    further cell of prose begins one below it, code and its output stay with what is said before.
    The start of the notebook is left out."""
    notebook = nbformat.reads(text, as_version=4)
    seen_prose = False
    for number, cell in enumerate(notebook.cells):
        if cell.cell_type == "markdown":
            kind = "slide" if cell.source.lstrip().startswith("#") else "subslide"
            # Notebooks and pages lie elsewhere from here, and are web pages.
            cell.source = re.sub(
                r"\]\(([^):]+)\.(?:ipynb|md)\)", r"](../notebooks/course/\1.html)", cell.source
            )
            seen_prose = seen_prose or number > 0
        else:
            kind = "-" if seen_prose else "skip"
        cell.metadata["slideshow"] = {"slide_type": kind}
    return notebook


if __name__ == "__main__":
    sys.exit(main())
