"""Data: cohorts, splits and deletion requests by patient, batches, report and image noise, leakage."""

from forget_mi.lazy import lazy_exports

__getattr__, __dir__, __all__ = lazy_exports(
    __name__,
    {
        "cohort": "Cohort rows_of",
        "cohorts.registry": "load_cohort",
        "cohorts.synthetic": "SyntheticConfig",
        "splits": "SplitConfig split_by_patient assert_disjoint",
        "requests": "Request RequestConfig make_request draw_request read_forget_csv",
        "batches": "Batch Examples make_examples make_loader tokenize",
        "perturbation": "noisy_images noisy_report noisy_reports",
        "leakage": "NEAR near_duplicates nearest_in_training",
        "export": "export_cohort",
    },
)
