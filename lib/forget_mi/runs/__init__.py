"""Runs: parameters and profiles, the run folder and its models, the chain of notebooks through
papermill."""

from forget_mi.lazy import lazy_exports

__getattr__, __dir__, __all__ = lazy_exports(
    __name__,
    {
        "project": "display_path show_progress write_table ROOT",
        "params": "Params SweepConfig TuningConfig approach_overrides resolve unlearning_values "
        "SECTIONS",
        "profiles": "load_profile read_yaml tuned_by",
        "run": "Run load_source open_run",
        "models": "load_model save_model train_model train_models",
        "references": "load_references save_references",
        "shadows": "shadow_predictions shadow_set unlearned_shadow_predictions SHADOWS",
        "chain": "NotebookError execute run_chain run_tuning_notebook NOTEBOOKS SIDE_NOTEBOOKS",
        "notebooks": "rebuild_notebooks",
        "memory": "memory_table",
        "parallel": "parallel_models run_parallel",
        "salt": "draw_salt run_salt SALT",
    },
    extra="notebooks",
)
