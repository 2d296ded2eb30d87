"""The site and the slides, as built by `make docs`, in a real browser and without a network."""

import functools
import http.server
import subprocess
import sys
import threading
from html.parser import HTMLParser
from urllib.parse import unquote, urldefrag, urljoin, urlsplit

import pytest
from axe_playwright_python.sync_playwright import Axe

from forget_mi.course.notebooks import LESSONS
from forget_mi.runs.project import ROOT

START = "docs/index.html"
READ = [
    START,
    "docs/measures.html",
    "docs/course.html",
    "notebooks/03_unlearn.html",
    "docs/api.html",
    "notebooks/course/04_four_losses.html",
    "docs/your-own-model.html",
]
# What the start page is asked for, and a word that stands where it is answered.
TEN = {
    "add a cohort": "CohortContract",
    "add a method": "UnlearningLoop",
    "add an attack": "higher meaning member",
    "add a figure": "finish_figure",
    "add a profile": "params/mine.yaml",
    "change the text tower": "text_pretrained",
    "run on Slurm": "workflow/profiles/slurm",
    "read a report": "report.html",
    "cite": "@inproceedings",
    "run one test": "pytest tests/test_losses.py",
}


class Page(HTMLParser):
    """The links, addresses of resources and anchors of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.links, self.resources, self.anchors, self.no_alt = [], [], set(), []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        values = dict(attributes)
        self.anchors |= {values[name] for name in ("id", "name") if values.get(name)}
        if tag == "a" and values.get("href"):
            self.links.append(values["href"])
        if tag in ("img", "script", "iframe") and values.get("src"):
            self.resources.append(values["src"])
        if tag == "link" and values.get("rel") in ("stylesheet", "icon", "preload"):
            self.resources.append(values["href"])
        if tag == "img" and not values.get("alt"):
            self.no_alt.append(values.get("src", ""))


@pytest.fixture(scope="session")
def site(tmp_path_factory):
    """The folder of a site that was built now. Warnings are errors."""
    target = tmp_path_factory.mktemp("site") / "html"
    done = subprocess.run(
        [sys.executable, str(ROOT / "docs" / "build.py"), "--target", str(target)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-3000:]
    return target


@pytest.fixture(scope="session")
def url(site):
    """Its address."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(
        ("127.0.0.1", 0), functools.partial(Quiet, directory=str(site))
    )
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


@pytest.fixture(scope="session")
def pages(site) -> dict[str, Page]:
    """Every page by its path."""
    return {
        str(path.relative_to(site)): Page(path.read_text())
        for path in sorted(site.rglob("*.html"))
        if "_static" not in path.parts
    }


@pytest.fixture
def page(chromium, url):
    """A browser page that fails the test where it asks anybody else, is refused something, or stops
    with an error."""
    page, wrong = chromium.new_page(viewport={"width": 1200, "height": 900}), []
    page.on(
        "request",
        lambda r: (
            r.url.startswith((url, "data:", "blob:", "about:")) or wrong.append(f"asks {r.url}")
        ),
    )
    page.on("response", lambda r: r.status < 400 or wrong.append(f"{r.status} {r.url}"))
    page.on("pageerror", lambda error: wrong.append(f"error {error}"))
    yield page
    page.close()
    assert not wrong, wrong[:3]


def test_no_page_needs_anything_from_elsewhere(pages):
    outside = {
        (name, r) for name, page in pages.items() for r in page.resources if urlsplit(r).netloc
    }
    assert not outside, sorted(outside)[:3]


def test_links_and_anchors_hold(pages, site):
    broken = []
    for name, page in pages.items():
        for link in {*page.links, *page.resources}:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc or link.startswith("#/"):
                continue
            path, anchor = urldefrag(unquote(urljoin(f"/{name}", link)))
            target = path.lstrip("/").split("?")[0] or START
            if not (site / target).is_file():
                broken.append(f"{name}: {link}")
            elif anchor and target in pages and anchor not in pages[target].anchors:
                broken.append(f"{name}: no anchor {link}")
    assert not broken, broken[:5]
    assert len(pages) > 50


def test_figures_have_an_alternative_text(pages):
    without = [f"{name}: {src[:60]}" for name, page in pages.items() for src in page.no_alt
               if not name.startswith("slides/") and src]  # fmt: skip
    assert not without, without[:5]


@pytest.mark.parametrize("wanted", TEN)
def test_each_of_ten_things_is_two_clicks_from_the_start(wanted, page, url):
    page.goto(f"{url}/{START}")
    page.locator("table tr", has_text=wanted).get_by_role("link").click()
    page.wait_for_load_state()
    assert TEN[wanted] in page.inner_text("article")


def test_mathematics_is_typeset(page, url):
    for name in (
        "docs/measures.html",
        "notebooks/03_unlearn.html",
        "notebooks/course/04_four_losses.html",
    ):
        page.goto(f"{url}/{name}")
        page.wait_for_selector("article .MathJax", timeout=30_000)
        page.evaluate("() => new Promise(done => MathJax.Hub.Queue(() => done()))")
        left = page.locator("article .math").evaluate_all(
            "nodes => nodes.filter(n => n.innerText.includes('\\\\(') || "
            "n.innerText.includes('\\\\[')).length"
        )
        assert left == 0
        assert page.locator("article .MathJax_Error, article .merror").count() == 0


def test_search_finds_membership(page, url):
    page.goto(f"{url}/search.html?q=membership")
    page.wait_for_selector("#search-results li", timeout=30_000)
    found = page.locator("#search-results li").all_inner_texts()
    assert any("Membership inference" in text for text in found)


def settle(page) -> None:
    """Wait until fonts are there and formulas are set. (`goto` has waited for all that the page
    names; an idle network, which Playwright advises against, now and then never comes.)"""
    page.evaluate("() => document.fonts.ready.then(() => true)")
    formulas = "new Promise(done => MathJax.Hub.Queue(() => done(true)))"
    page.evaluate(
        f"() => window.MathJax && MathJax.Hub ? {formulas} : true"
    )  # without formulas it is settings only
    page.wait_for_timeout(500)


@pytest.mark.parametrize("name", READ)
def test_pages_read_well_on_a_telephone(name, page, url):
    page.set_viewport_size({"width": 400, "height": 800})
    page.goto(f"{url}/{name}")
    settle(page)
    assert page.evaluate("document.scrollingElement.scrollWidth") <= 400
    assert page.locator("article h1").first.bounding_box()["width"] <= 400


@pytest.mark.parametrize("name", READ)
def test_axe_finds_no_serious_fault(name, chromium, url):
    page = chromium.new_page(
        viewport={"width": 1200, "height": 900}
    )  # axe asks for style sheets of its own
    page.goto(f"{url}/{name}")
    settle(page)
    found = Axe().run(page).response["violations"]
    page.close()
    serious = [
        f"{v['id']}: {v['nodes'][0]['html'][:160]}"
        for v in found
        if v["impact"] in ("serious", "critical")
    ]
    assert not serious, serious


@pytest.mark.parametrize("lesson", LESSONS)
def test_slides_advance(lesson, page, url):
    page.goto(f"{url}/slides/{lesson}.html")
    page.wait_for_function("window.Reveal && Reveal.isReady()", timeout=30_000)
    seen = set()
    for _ in range(6):
        seen.add(page.evaluate("JSON.stringify(Reveal.getIndices())"))
        page.keyboard.press("Space")
        page.wait_for_timeout(150)
    assert len(seen) == 6
    assert (
        page.locator(".reveal .slides section.present h2").count()
        or page.locator("section.present").count()
    )
    assert page.evaluate("Reveal.getTotalSlides()") >= 8


def test_slides_typeset_their_mathematics(page, url):
    page.goto(f"{url}/slides/04_four_losses.html")
    page.wait_for_selector(".MathJax", state="attached", timeout=30_000)


def test_the_build_fails_on_a_warning(tmp_path):
    """Tried with a page whose link leads nowhere."""
    docs = tmp_path / "docs"
    (docs / "_static").mkdir(parents=True)
    (docs / "conf.py").write_text((ROOT / "docs" / "conf.py").read_text())
    for name in ("site.css", "site.js"):
        (docs / "_static" / name).write_text("")
    (docs / "index.md").write_text("# Start\n\n[nowhere](nowhere.md)\n")
    command = [
        sys.executable,
        "-m",
        "sphinx",
        "-q",
        "-W",
        "-c",
        str(docs),
        str(tmp_path),
        str(tmp_path / "out"),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert "nowhere" in done.stderr
