"""torchunlearn 0.1.0: its wheel lacks the modules that its own Unlearn class imports
(torchunlearn.unlearn.trainers and .nontrainers), so that none of its methods can be called; there
is no source distribution."""

from __future__ import annotations

PACKAGE, VERSION, MODULE = "torchunlearn", "0.1.0", "torchunlearn"
NEEDS = WHOLE = ()
METHODS = ()
LEFT_OUT = dict.fromkeys(
    ("finetune", "neggrad", "influence", "fisher_forget"),
    "not in the package: its wheel has no torchunlearn.unlearn.trainers",
)
