"""The exception for errors of the user, shown as one line without a traceback."""


class UserError(Exception):
    """Invalid input. The message names the option or file, the problem and a remedy."""
