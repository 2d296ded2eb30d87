"""The one exception that means 'your input is wrong'."""

from __future__ import annotations


class InputError(Exception):
    """Bad input: one line that names the file, row or parameter, its value, and what is allowed.

    No ValueError: it has to pass through code that catches those.
    """
