"""What an attacker sees."""

from __future__ import annotations

from dataclasses import dataclass

from forget_mi.metrics import Predictions


@dataclass(frozen=True)
class Evidence:
    """One model's predictions on D_f, on D_r (certain members of an honest original's training set) and on D_t
    (certain strangers)."""

    forget: Predictions
    retain: Predictions
    test: Predictions
