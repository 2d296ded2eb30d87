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

    modules: names below forget_mi, 'training' or 'unlearning.scrub'. Imports inside functions count; modules found by
    name at run time (importlib) don't, and have to be named. Raises ValueError for a module that does not exist.
    """
    found, waiting = set(), [_file_of(name) for name in modules]
    if None in waiting:
        raise ValueError(f"no module forget_mi.{modules[waiting.index(None)]}")
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


def _file_of(name: str) -> Path | None:
    path = LIBRARY.joinpath(*name.split("."))
    if path.with_suffix(".py").is_file():
        return path.with_suffix(".py")
    return path / "__init__.py" if (path / "__init__.py").is_file() else None


@cache
def _imported_by(path: Path) -> frozenset[Path]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "forget_mi":
            module = node.module.removeprefix("forget_mi").lstrip(".")
            names |= {module} | {f"{module}.{alias.name}".lstrip(".") for alias in node.names}
        elif isinstance(node, ast.Import):
            names |= {a.name.removeprefix("forget_mi.") for a in node.names if a.name.startswith("forget_mi.")}
    return frozenset(file for name in names if name and (file := _file_of(name)) is not None)
