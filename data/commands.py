"""What every command of `data` and `feature_extraction` does around its work."""

from collections.abc import Callable

from . import terminal
from .manifest import StoreError


def run(work: Callable[[], int | None]) -> int:
    """Does the work; returns its exit code (None: 0), 2 after a line on bad input."""
    terminal.setup()
    try:
        return work() or 0
    except StoreError as error:
        terminal.CONSOLE.print(f"error: {error}")
        return 2
