"""The error class whose message is meant for the person at the terminal."""


class UserError(Exception):
    """Bad input: one line that names the option or file and what to do about it."""
