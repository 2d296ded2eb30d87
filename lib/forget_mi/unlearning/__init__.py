"""Unlearning: a module a method, all called the same way and found by name (see `registry`)."""

from forget_mi.lazy import lazy_exports

__getattr__, __dir__, __all__ = lazy_exports(
    __name__,
    {
        "registry": "approaches get_method needs_references parse_approach METHODS",
        "base": "Reference StepConfig UnlearningData UnlearningLog",
        "loop": "BatchOutput UnlearningLoop",
        "rewinding": "pretrained_networks rewind",
        "samplers": "forget_sampler paired_sampler retain_sampler",
        "teacher_outputs": "TeacherOutputs",
        "references": "References UnlearnedReference unlearn_references",
        "search_space": "LogUniform OneOf SearchSpace Uniform Whole",
        "shadows": "unlearn_shadow_models",
        "forget_mi": "Weights four_losses noisy_copies SETTINGS",
    },
)
