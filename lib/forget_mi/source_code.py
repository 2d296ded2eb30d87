"""Which source files a part of the library is made of, so that a result is made again when one of
them changes, and only then."""

from __future__ import annotations

import ast
import hashlib
from functools import cache
from pathlib import Path

LIBRARY = Path(__file__).parent


def sources_of(*modules: str) -> list[Path]:
    """The files of some modules and of all modules of the library that they import, at any depth,
    sorted.

    modules: names below forget_mi, 'training.loop' or 'unlearning.scrub'; a package counts with all
    its modules. Imports inside functions count; modules found by name at run time (importlib)
    don't, and have to be named. Raises ValueError for a module that does not exist.
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
    """12 hex digits that change with any line of the given modules or of what they import; without
    any, of the whole library."""
    digest = hashlib.sha256()
    for path in sources_of(*modules) if modules else sorted(LIBRARY.rglob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:12]


def _files_of(name: str) -> list[Path]:
    """The file of a module, or all files of a package; none where there is no such module."""
    path = LIBRARY.joinpath(*name.split("."))
    file = path.with_suffix(".py")
    return [file] if file.is_file() else sorted(path.rglob("*.py"))


def _module_of(package: str, name: str) -> str:
    """The module that `from forget_mi.package import name` imports: name itself, or where the
    package's exports say."""
    module = f"{package}.{name}".lstrip(".")
    return module if _files_of(module) else _exports(package).get(name, package)


@cache
def _exports(package: str) -> dict[str, str]:
    """By exported name the module behind it, read from the package's call of lazy_exports; {} for a
    module."""
    path = LIBRARY.joinpath(*package.split("."), "__init__.py")
    calls = ast.walk(ast.parse(path.read_text())) if path.is_file() else []
    tables = [
        ast.literal_eval(node.args[1])
        for node in calls
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "lazy_exports"
    ]
    return {
        name: f"{package}.{module}" if package else module
        for table in tables
        for module, names in table.items()
        for name in names.split()
    }


@cache
def _imported_by(path: Path) -> frozenset[Path]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "forget_mi":
            module = node.module.removeprefix("forget_mi").lstrip(".")
            names |= {_module_of(module, alias.name) for alias in node.names}
        elif isinstance(node, ast.Import):
            names |= {
                a.name.removeprefix("forget_mi.")
                for a in node.names
                if a.name.startswith("forget_mi.")
            }
    return frozenset(file for name in names if name for file in _files_of(name))
