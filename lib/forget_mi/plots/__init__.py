"""Plots: functions that take tables or arrays and return a matplotlib Figure; they read no file."""

from forget_mi.lazy import lazy_exports

__getattr__, __dir__, __all__ = lazy_exports(
    __name__,
    {
        "style": "COLOURS SIDE_COLOURS approach_palette finish_figure model_colour set_style "
        "wrapped",
        "cohorts": "label_balance patient_images pictures sample_images",
        "training": "training_curves trials unlearning_curves",
        "models": "loss_histograms measures_with_intervals roc_curves",
        "comparison": "comparison_table cost_against_closeness curves_over_requests "
        "forgetting_against_usefulness gaps_by_measure print_comparison",
        "audit": "attacks_by_approach low_fpr_roc models_to_plot patients_among_strangers "
        "relearning_curves score_histograms verdict_gaps",
        "beyond": "frontier margins_by_source probability_directions request_sequence",
    },
    extra="notebooks",
)
