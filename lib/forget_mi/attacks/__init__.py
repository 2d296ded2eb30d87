"""Attacks: a module an attack, all called `attack(evidence, tower) -> Scores` (see `registry`)."""

from forget_mi.lazy import lazy_exports

__getattr__, __dir__, __all__ = lazy_exports(
    __name__,
    {"registry": "ATTACKS NEEDS RELATIVE available_attacks", "base": "Evidence Scores margins"},
)
