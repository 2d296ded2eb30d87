"""Evaluation: the audit of a model, attack rates with intervals, verdicts, probes, statistics over runs."""

from forget_mi.lazy import lazy_exports

__getattr__, __dir__, __all__ = lazy_exports(
    __name__,
    {
        "config": "AuditConfig",
        "audit": "EARLIER ModelAudit audit_model measure_all rows_by_set",
        "measures": "SETS Measure measures_of",
        "comparison": "CLOSENESS against_retrained compare_models losses_by_record mean_gap",
        "attack_rates": "FPRS all_scores attack_table patient_table patients_of",
        "roc": "Roc by_patient patient_draws percentiles",
        "verdicts": "margin_checks overall_verdict verdict_basis verdict_checks",
        "permutation": "permutation_table",
        "relearning": "relearning_speed",
        "representations": "representation_table",
        "collateral": "by_group collateral_damage",
        "planted_faults": "flip_predictions flipped head_only_edit",
        "statistics": "gaps_to_retrained mean_ranks paired_differences sort_approaches summary",
        "published": "forget_mi_paper",
    },
)
