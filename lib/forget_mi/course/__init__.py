"""The course in notebooks/course: what its lessons start from, and the checks of their exercises, a module a lesson."""

from forget_mi.course.lesson import Lesson, open_lesson, run_tiny

__all__ = ["Lesson", "open_lesson", "run_tiny"]
