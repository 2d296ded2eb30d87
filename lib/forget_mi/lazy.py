"""Package exports that are imported when they are first used: `import forget_mi.training` alone
does not import torch."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from typing import Any

from forget_mi.errors import import_extra


def lazy_exports(
    package: str, exports: Mapping[str, str], extra: str | None = None
) -> tuple[Callable[[str], Any], Callable[[], list[str]], list[str]]:
    """`__getattr__`, `__dir__` and `__all__` of a package (PEP 562).

    exports: by module of the package, the names that it exports, separated by spaces. extra: the
    installation extra that its modules need beyond the base, named where a package is missing.
    """
    module_of = {name: module for module, names in exports.items() for name in names.split()}

    def get(name: str) -> Any:
        if name in module_of:
            path = f"{package}.{module_of[name]}"
            module = import_extra(path, extra) if extra else importlib.import_module(path)
            return getattr(module, name)
        raise AttributeError(f"module {package!r} has no attribute {name!r}")

    return get, lambda: sorted(module_of), sorted(module_of)
