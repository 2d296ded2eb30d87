"""The course in notebooks/course: what its lessons start from, the checks of its exercises, the
explorer."""

from forget_mi.lazy import lazy_exports

__getattr__, __dir__, __all__ = lazy_exports(
    __name__,
    {
        "lesson": "Lesson open_lesson run_tiny",
        "explorer": "Explorer",
        "explorer_page": "explorer_widgets",
        "notebooks": "write_exercises EXECUTED",
    },
    extra="notebooks",
)
