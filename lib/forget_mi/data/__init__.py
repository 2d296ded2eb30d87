"""Data: cohorts, splits and deletion requests by patient, batches, report and image noise,
leakage."""

from forget_mi.lazy import lazy_exports

__getattr__, __dir__, __all__ = lazy_exports(
    __name__,
    {
        "cohort": "Cohort rows_of",
        "cohorts.registry": "cohort_settings load_cohort",
        "cohorts.synthetic": "SyntheticConfig",
        "splits": "SplitConfig assert_disjoint split_by_patient",
        "requests": "Request RequestConfig check_request cohort_ids draw_request make_request "
        "read_forget_csv",
        "batches": "Batch Examples make_examples stored_batch to_float tokenize",
        "loaders": "device_loader make_loader placed split_batch to_device_ahead",
        "perturbation": "noisy_images noisy_report noisy_reports",
        "leakage": "NEAR class_named_in_reports near_duplicates nearest_in_training",
        "export": "export_cohort",
        "pseudonyms": "pseudonym HASHED",
    },
)
