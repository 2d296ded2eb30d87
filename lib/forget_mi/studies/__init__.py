"""Studies: the sweep and its workflow, tuning, the results of the docs, and what goes past the
paper."""

from forget_mi.lazy import lazy_exports

__getattr__, __dir__, __all__ = lazy_exports(
    __name__,
    {
        "sweep": "Sweep compared_runs open_sweep",
        "ablation": "ablate read_changes rebuild_ablation",
        "tuning": "save_search search space_of tuning_cases tuning_folder",
        "tuning_score": "TuningCase TuningPredictions score_terms watched",
        "study": "Study",
        "costs": "policy_costs yearly_cost",
        "workflow": "run_beyond_part run_job run_shadow run_shadows run_sweep run_tuning",
        "results": "finish_beyond rebuild_results",
        "real_results": "rebuild_real_results rebuild_real_study",
        "calibration": "rebuild_calibration",
        "year_tables": "rebuild_year",
    },
    extra="studies",
)
