"""The exception for errors of the user, shown as one line without a traceback."""

from collections.abc import Collection, Iterable


class UserError(Exception):
    """Invalid input. The message names the option or file, the problem and a remedy."""


def check_name(option: str, name: str, names: Collection[str]):
    """Raise `UserError` unless the value of an option is one of the known names."""
    if name not in names:
        raise UserError(f"{option}={name!r}: is unknown; use one of {', '.join(names)}")


def list_some(names: Iterable[object]) -> str:
    """Return the first four names and the number of the others, for a message."""
    names = [str(name) for name in names]
    more = f" and {len(names) - 4} more" if len(names) > 4 else ""
    return ", ".join(names[:4]) + more
