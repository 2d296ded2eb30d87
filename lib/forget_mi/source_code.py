"""Which source files a part of the library is made of, so that a result is made again when one of them changes, and
only then."""

from __future__ import annotations

import ast
import hashlib
from functools import cache
from pathlib import Path

LIBRARY = Path(__file__).parent


def sources_of(*modules: str) -> list[Path]:
    """The files of some modules and of all modules of the library that they import, at any depth, sorted.

    modules: names below forget_mi, 'training.loop' or 'unlearning.scrub'; a package counts with all its modules. Imports
    inside functions count; modules found by name at run time (importlib) don't, and have to be named. Raises ValueError
    for a module that does not exist.
    """
    found, waiting = set(), []
    for name in modules:
        files = _files_of(name)
        if not files:
            raise ValueError(f"no module forget_mi.{name}")
        waiting += files
    while waiting:
        path = waiting.pop()
        if path not in found:
            found.add(path)
            waiting += [p for p in _imported_by(path) if p not in found]
    return sorted(found)


def code_fingerprint(*modules: str) -> str:
    """12 hex digits that change with any line of the given modules or of what they import; without any, of the whole
    library."""
    digest = hashlib.sha256()
    for path in sources_of(*modules) if modules else sorted(LIBRARY.rglob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:12]


def _files_of(name: str) -> list[Path]:
    """The file of a module, or all files of a package; none where there is no such module."""
    path = LIBRARY.joinpath(*name.split("."))
    file = path.with_suffix(".py")
    return [file] if file.is_file() else sorted(path.rglob("*.py"))


@cache
def _imported_by(path: Path) -> frozenset[Path]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "forget_mi":
            module = node.module.removeprefix("forget_mi").lstrip(".")
            parts = [f"{module}.{alias.name}".lstrip(".") for alias in node.names]
            names |= {part if _files_of(part) else module for part in parts}
        elif isinstance(node, ast.Import):
            names |= {
                a.name.removeprefix("forget_mi.")
                for a in node.names
                if a.name.startswith("forget_mi.")
            }
    return frozenset(file for name in names if name for file in _files_of(name))
