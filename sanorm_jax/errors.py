"""The one error class whose message is meant for the person at the terminal."""


class ConfigError(Exception):
    """Bad input by the user: one line that names the option or file and the remedy."""
