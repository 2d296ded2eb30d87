"""Checks of exercises that say what is wrong with an answer, in a sentence.

A check is a function that takes a student's answer and raises `NotYetError` with what is wrong;
`exercise` makes it print one line, whatever the answer is: nothing at all, of another type, or a
function that stops with an error.
"""

from __future__ import annotations

import functools
import traceback
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

RIGHT, NOT_YET = "Right.", "Not yet."


class NotYetError(Exception):
    """What is wrong with an answer, as a sentence for the student."""


def exercise(check: Callable[..., str]) -> Callable[..., None]:
    """Make a check print 'Right.' and what it returns, or 'Not yet.' and why; it never raises."""

    @functools.wraps(check)
    def printed(*answers: Any) -> None:
        try:
            if any(answer is Ellipsis for answer in answers):
                raise NotYetError(
                    "This exercise is still empty: put your answer in place of the three dots."
                )
            message = f"{RIGHT} {check(*answers)}"
        except NotYetError as wrong:
            message = f"{NOT_YET} {wrong}"
        except TypeError as error:  # of the call of the check itself: an answer too many or too few
            message = f"{NOT_YET} The check can't read this answer ({error})."
        print(message)

    return printed


def call(function: Any, *arguments: Any, name: str = "your function") -> Any:
    """What the student's function gives back. Raises NotYetError where it is no function, gives
    nothing, or fails."""
    if not callable(function):
        raise NotYetError(
            f"The check wants {name} itself, a function; it was given {describe(function)}."
        )
    try:
        found = function(*arguments)
    except NotYetError:
        raise
    except Exception as error:
        line = traceback.extract_tb(error.__traceback__)[-1].line if error.__traceback__ else ""
        where = f" in `{line}`" if line else ""
        raise NotYetError(f"{name} stopped with {type(error).__name__}: {error}{where}.") from None
    if found is None or found is Ellipsis:
        raise NotYetError(
            f"{name} gives back nothing: is it still empty, or does its last line lack `return`?"
        )
    return found


def number(answer: Any, name: str, low: float = -np.inf, high: float = np.inf) -> float:
    """The answer as a number within limits. Raises NotYetError where it is none."""
    if hasattr(answer, "detach"):
        answer = answer.detach().cpu().numpy()
    if isinstance(answer, bool) or np.ndim(answer) != 0 or np.size(answer) != 1:
        raise NotYetError(f"{name} should be one number; it is {describe(answer)}.")
    try:
        value = float(answer)
    except (TypeError, ValueError):
        raise NotYetError(f"{name} should be a number; it is {describe(answer)}.") from None
    if np.isnan(value):
        raise NotYetError(
            f"{name} is NaN: something was divided by zero, or the logarithm of zero was taken."
        )
    if not low <= value <= high:
        raise NotYetError(f"{name} is {value:.4g}, and can only lie between {low:g} and {high:g}.")
    return value


def array(answer: Any, name: str, shape: tuple[int, ...]) -> np.ndarray:
    """The answer as an array of a shape. Raises NotYetError where it is of another."""
    if hasattr(answer, "detach"):
        answer = answer.detach().cpu().numpy()
    try:
        found = np.asarray(answer)
        if found.dtype == object:
            raise ValueError
    except ValueError:
        raise NotYetError(
            f"{name} should be an array of shape {shape}; it is {describe(answer)}."
        ) from None
    if found.shape != shape:
        raise NotYetError(f"{name} should have shape {shape}; it has {found.shape}.")
    if found.dtype.kind == "f" and np.isnan(found).any():
        raise NotYetError(
            f"{name} has NaN in it: something was divided by zero, or the logarithm of zero was "
            "taken."
        )
    return found


def close(
    found: Any,
    right: Any,
    name: str,
    mistakes: Mapping[str, Any] | None = None,
    tolerance: float = 1e-4,
) -> None:
    """Raise NotYetError unless a number or an array is as it should be.

    mistakes: by what to tell the student, what the answer would be had he made that mistake.
    """
    if np.allclose(found, right, rtol=tolerance, atol=tolerance):
        return
    for hint, value in (mistakes or {}).items():
        if np.shape(value) == np.shape(found) and np.allclose(
            found, value, rtol=tolerance, atol=tolerance
        ):
            raise NotYetError(hint)
    if np.ndim(found):
        at = np.unravel_index(
            np.argmax(np.abs(np.asarray(found, float) - np.asarray(right, float))), np.shape(found)
        )
        place = at[0] if len(at) == 1 else tuple(int(i) for i in at)
        raise NotYetError(f"{name} is off: at {place} it says {np.asarray(found)[at]:.4g}, where "
                          "it should be "
                     f"{np.asarray(right)[at]:.4g}.")  # fmt: skip
    raise NotYetError(
        f"{name} is {float(found):.4g}; that is too {'high' if found > right else 'low'}."
    )


def chosen(answer: Any, right: str, why_not: Mapping[str, str]) -> None:
    """Raise NotYetError unless the right one of some answers was chosen. why_not: what to tell of
    each other."""
    allowed = sorted([right, *why_not])
    if not isinstance(answer, str) or answer.strip().lower() not in allowed:
        raise NotYetError(
            f"Choose one of {', '.join(map(repr, allowed))}; it is {describe(answer)}."
        )
    if answer.strip().lower() != right:
        raise NotYetError(why_not[answer.strip().lower()])


def describe(value: Any) -> str:
    """What something is, for a message."""
    shape = getattr(value, "shape", None)
    if shape is not None and len(shape):
        return f"an array of shape {tuple(shape)}"
    if isinstance(value, (list, tuple, dict, set)):
        return f"a {type(value).__name__} of {len(value)}"
    if callable(value):
        return "a function"
    return f"{value!r}" if len(repr(value)) < 40 else f"a {type(value).__name__}"
