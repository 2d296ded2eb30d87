"""The one exception that means 'your input is wrong'."""


class InputError(ValueError):
    """Bad input: one line that names the file, row or parameter, its value, and what is allowed."""
