"""Progress of long work: a bar in a terminal, now and then a line in a log."""

import sys
import time

from absl import logging
from rich import progress as rich_progress
from rich.console import Console

_LOG_EVERY_S = 15.0


class Progress:
    """Shows how much is done, the rate, and how long the rest will take.

    A context manager.

    Args:
      title: what is being done.
      total: amount of work, in `unit`.
      unit: plural noun.
    """

    def __init__(self, title: str, total: int, unit: str):
        self._title, self._total, self._unit = title, total, unit
        self._done = 0
        self._started = self._said = time.monotonic()
        self._bar = None

    def __enter__(self):
        if sys.stderr.isatty():
            self._bar = rich_progress.Progress(
                rich_progress.TextColumn("{task.description}"),
                rich_progress.BarColumn(),
                rich_progress.MofNCompleteColumn(),
                rich_progress.TextColumn("{task.fields[rate]}"),
                rich_progress.TimeRemainingColumn(),
                console=Console(stderr=True),
            )
            self._bar.start()
            self._task = self._bar.add_task(self._title, total=self._total, rate="")
        else:
            logging.info("%s: %d %s", self._title, self._total, self._unit)
        return self

    def advance(self, amount: int, note: str = ""):
        """Counts work done; `note` (such as bytes) follows the rate."""
        self._done += amount
        now = time.monotonic()
        rate = self._done / max(now - self._started, 1e-6)
        shown = f"{rate:.1f} {self._unit}/s {note}".strip()
        if self._bar is not None:
            self._bar.update(self._task, advance=amount, rate=shown)
        elif now - self._said > _LOG_EVERY_S:
            self._said = now
            left = (self._total - self._done) / rate
            logging.info(
                "%s: %d of %d, %s, %.0f s left",
                *(self._title, self._done, self._total, shown, left),
            )

    def __exit__(self, *exc_info):
        if self._bar is not None:
            self._bar.stop()
