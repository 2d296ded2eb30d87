"""Evaluation: the audit of a model, attack rates with intervals, verdicts, probes, statistics over
runs."""

from forget_mi.lazy import lazy_exports

__getattr__, __dir__, __all__ = lazy_exports(
    __name__,
    {
        "config": "AuditConfig",
        "audit": "ModelAudit audit_model measure_all rows_by_set EARLIER FORGOTTEN",
        "measures": "Measure measures_of SETS",
        "comparison": "against_retrained compare_models losses_by_record mean_gap patients_found "
        "CLOSENESS COMPARED FOUND_AT",
        "attack_rates": "all_scores at_level attack_table patients_of FPRS STRONGEST",
        "roc": "Roc by_patient patient_draws percentiles",
        "verdicts": "margin_checks overall_verdict verdict_basis verdict_checks DISTINGUISHED OVER "
        "SAME "
        "UNDER UNKNOWN",
        "permutation": "permutation_table",
        "relearning": "relearning_speed",
        "training_on": "after_training_on trained_on COMES_BACK",
        "representations": "representation_table",
        "collateral": "by_group collateral_damage",
        "patient_test": "judge_patients strangers_needed "
        "PatientTest COULD_NOT FOUND NOT_TOLD PUSHED",
        "patient_null": "Records",
        "p_values": "hommel upper_p",
        "patient_scores": "patient_tests scores_by_look",
        "planted_faults": "flip_predictions flipped head_only_edit",
        "statistics": "add_approach_column gaps_to_retrained mean_ranks paired_differences "
        "sort_approaches summary ORIGINAL RETRAINED",
        "published": "forget_mi_paper",
    },
)
