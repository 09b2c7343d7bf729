"""What every command of `data` and `feature_extraction` does around its work."""

from collections.abc import Callable

from absl import logging
from rich.console import Console

from .manifest import StoreError


def say(line: str):
    """Writes a line to standard error, as long as it is."""
    console = Console(stderr=True, highlight=False, soft_wrap=True, markup=False)
    console.print(line)


def run(work: Callable[[], int | None]) -> int:
    """Does the work; returns its exit code (None: 0), 2 after a line on bad input."""
    logging.set_verbosity(logging.INFO)
    try:
        return work() or 0
    except StoreError as error:
        say(f"error: {error}")
        return 2
