"""The exception for errors of the user, shown as one line without a traceback."""

from collections.abc import Collection


class UserError(Exception):
    """Invalid input. The message names the option or file, the problem and a remedy."""


def check_name(option: str, name: str, names: Collection[str]):
    """Raise `UserError` unless the value of an option is one of the known names."""
    if name not in names:
        raise UserError(f"{option}={name!r}: is unknown; use one of {', '.join(names)}")
