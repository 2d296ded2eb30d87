"""Pictures: functions that take tables or arrays and return a matplotlib Figure."""

from forget_mi.plots.cohorts import label_balance, patient_images, pictures, sample_images
from forget_mi.plots.comparison import (
    comparison_table,
    cost_against_closeness,
    curves_over_requests,
    forgetting_against_usefulness,
    gaps_by_measure,
    print_comparison,
)
from forget_mi.plots.models import loss_histograms, measures_with_intervals, roc_curves
from forget_mi.plots.style import COLOURS, SIDE_COLOURS, colour_of, palette_of, set_style, shown_once, wrapped
from forget_mi.plots.training import training_curves, trials, unlearning_curves

__all__ = [
    "COLOURS",
    "SIDE_COLOURS",
    "colour_of",
    "comparison_table",
    "cost_against_closeness",
    "curves_over_requests",
    "forgetting_against_usefulness",
    "gaps_by_measure",
    "label_balance",
    "loss_histograms",
    "measures_with_intervals",
    "palette_of",
    "patient_images",
    "pictures",
    "print_comparison",
    "roc_curves",
    "sample_images",
    "set_style",
    "shown_once",
    "training_curves",
    "trials",
    "unlearning_curves",
    "wrapped",
]
