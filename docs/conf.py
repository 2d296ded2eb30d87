"""The site: Sphinx over docs/ and the committed notebooks, as they are (nothing is executed,
nothing is downloaded)."""

import itertools
import re
import sys
from pathlib import Path

import jupyter_server_mathjax

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent / "lib"))


project, author, copyright = (
    "forget-mi",
    "the forget-mi authors",
    "the forget-mi authors, MIT licence",
)
extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.viewcode",
    "sphinx_design",
    "sphinx_copybutton",
]
# The source folder is the project's root (see build.py), so that links between notebooks and pages
# are the same here and on GitHub.
root_doc = "docs/index"
include_patterns = [
    "docs/*.md",
    "notebooks/*.ipynb",
    "notebooks/course/*",
    "CHANGELOG.md",
    "CONTRIBUTING.md",
]
exclude_patterns = ["docs/_build", "**/.ipynb_checkpoints"]

# ---- notebooks -----------------------------------------------------------------------------------

nb_execution_mode = "off"
nb_merge_streams = True
nb_ipywidgets_js = {}
myst_enable_extensions = ["dollarmath", "amsmath", "colon_fence", "deflist"]
myst_heading_anchors = 4

# ---- mathematics, typeset by a MathJax that lies beside the pages --------------------------------

html_static_path = ["_static"]
mathjax_path = "mathjax/MathJax.js"
myst_update_mathjax = False  # MATHJAX_CONFIG says it, in the words of this version
MATHJAX = Path(jupyter_server_mathjax.__file__).parent / "static"
MATHJAX_CONFIG = """window.MathJax = {
  config: ["TeX-AMS-MML_HTMLorMML-full.js"], jax: ["input/TeX", "output/HTML-CSS"],
  showMathMenu: false,
  messageStyle: "none",
  "HTML-CSS": {availableFonts: [], imageFont: null, preferredFont: null, webFont: "STIX-Web"},
  tex2jax: {inlineMath: [["\\\\(", "\\\\)"]], displayMath: [["\\\\[", "\\\\]"]],
            ignoreClass: "tex2jax_ignore|mathjax_ignore|document",
            processClass: "tex2jax_process|mathjax_process|math"}
};"""

# ---- the look ------------------------------------------------------------------------------------

html_theme = "sphinx_book_theme"
html_title = "forget-mi"
html_theme_options = {
    "show_navbar_depth": 1,
    "home_page_in_toc": True,
    "use_download_button": False,
    "pygments_light_style": "a11y-high-contrast-light",
    "pygments_dark_style": "a11y-high-contrast-dark",
    "navigation_with_keys": False,
}
html_css_files = ["site.css"]
html_js_files = ["site.js"]
html_context = {"default_mode": "light"}
html_show_sourcelink = False
html_copy_source = False

# ---- the reference, from docstrings --------------------------------------------------------------

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_default_options = {"members": True, "ignore-module-all": True}
autodoc_preserve_defaults = True


def add_modules(_app, docname, source):
    """Put every module of the library into the page api.md, by package."""
    if docname != "docs/api":
        return
    library = HERE.parent / "lib" / "forget_mi"
    found = ["## Shared", *map(automodule, sorted(library.glob("[!_]*.py")))]
    for package in sorted(path.parent for path in library.glob("*/__init__.py")):
        found += [f"## {package.name.capitalize()}", automodule(package / "__init__.py")]
        found += map(automodule, sorted(package.rglob("[!_]*.py")))
    source[0] = "\n\n".join([source[0], *found])


def automodule(path):
    """A heading and the directive that documents a module."""
    parts = path.relative_to(HERE.parent / "lib").with_suffix("").parts
    name = ".".join(parts).removesuffix(".__init__")
    return f"### `{name}`\n\n```{{eval-rst}}\n.. automodule:: {name}\n```"


def as_rst(_app, _what, _name, _obj, _options, lines):
    """Our docstrings are plain text with `names` and indented formulas: make them what autodoc
    reads."""
    found, prose, formula = [], [], False
    for line in [*lines, ""]:
        indented = line.startswith("  ") and not (prose and prose[-1].lstrip().startswith("- "))
        if indented and not formula:
            found, prose = [*found, *escaped(prose), "", "::", ""], []
        elif formula and line.strip() and not indented:
            found.append("")
        formula = indented or (formula and not line.strip())
        if formula:
            found.append(line)
        elif prose and prose[-1].lstrip().startswith("- ") and line.startswith("  "):
            prose[-1] = f"{prose[-1]} {line.strip()}"
        else:
            prose.append(line)
    lines[:] = [*found, *escaped(prose)]


def escaped(lines):
    """Lines with `names` as literals and without anything else that RST would read as markup."""
    parts = re.split(r"(`[^`]+`)", "\n".join(lines))
    plain = (re.sub(r"([*|\\])|(_)(?=\W|$)", r"\\\g<0>", part) for part in parts[0::2])
    literal = (f"``{part[1:-1]}``" for part in parts[1::2])
    text = "".join(a + b for a, b in itertools.zip_longest(plain, literal, fillvalue=""))
    return re.sub(r"(``[^`]+``)(?=[\w(])", r"\1\\ ", text).split("\n")


def describe_figures(_app, doctree):
    """Give the pictures in a notebook's outputs an alternative text: the last sentence of prose
    before the cell."""
    from docutils import nodes

    said = "figure"
    for node in doctree.findall(
        lambda n: isinstance(n, (nodes.title, nodes.paragraph, nodes.image))
    ):
        if isinstance(node, nodes.image):
            if not node.get("alt") or node["alt"].startswith(("_images", "../")):
                node["alt"] = f"Figure: {said}"
        elif text := " ".join(node.astext().split()):
            said = text[:160]


def setup(app):
    """Hooks of the build."""
    app.add_js_file(None, body=MATHJAX_CONFIG, priority=100)
    app.connect("source-read", add_modules)
    app.connect("autodoc-process-docstring", as_rst)
    app.connect("doctree-read", describe_figures)
