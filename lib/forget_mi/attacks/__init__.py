"""Attacks: a module an attack, all called `attack(evidence, tower) -> Scores` (see `registry`)."""

from forget_mi.lazy import lazy_exports

__getattr__, __dir__, __all__ = lazy_exports(
    __name__,
    {
        "registry": "available_attacks ATTACKS NEEDS RELATIVE",
        "base": "Evidence Scores gaussian margins mean_where true_probability",
        "svc": "member_calls",
        "linear_probe": "embedding",
        "embedding_shift": "joint_embedding",
    },
)
