"""Progress of long work: a bar in a terminal, now and then a line in a log."""

import time

from absl import logging
from rich import progress as rich_progress

from sanorm_jax.core import console

_LOG_EVERY_S = 15.0


class Progress:
    """Shows how much is done, the rate, and how long the rest will take.

    A context manager.

    Args:
      title: what is being done.
      total: amount of work, in `unit`.
      unit: plural noun.
      done: of the amount, before.
    """

    def __init__(self, title: str, total: int, unit: str, done: int = 0):
        self._title, self._total, self._unit = title, total, unit
        self._done = self._before = done
        self._started = self._said = time.monotonic()
        self._bar = None

    def __enter__(self):
        if console.CONSOLE.is_terminal:
            self._bar = rich_progress.Progress(
                rich_progress.TextColumn("{task.description}"),
                rich_progress.BarColumn(),
                rich_progress.MofNCompleteColumn(),
                rich_progress.TextColumn("{task.fields[rate]}"),
                rich_progress.TimeRemainingColumn(),
                console=console.CONSOLE,
            )
            self._bar.start()
            # The end of a long path, so that the bar and the rate have room.
            room = max(console.CONSOLE.width // 3, 12)
            shown = (
                self._title if len(self._title) <= room else "…" + self._title[-room:]
            )
            self._task = self._bar.add_task(
                shown, total=self._total, completed=self._done, rate=""
            )
        else:
            logging.info("%s: %d %s", self._title, self._total, self._unit)
        return self

    def advance(self, amount: int, note: str = ""):
        """Count work done; `note` (such as bytes) follows the rate."""
        self._done += amount
        now = time.monotonic()
        rate = (self._done - self._before) / max(now - self._started, 1e-6)
        shown = f"{rate:.1f} {self._unit}/s {note}".strip()
        if self._bar is not None:
            self._bar.update(self._task, advance=amount, rate=shown)
        elif now - self._said > _LOG_EVERY_S:
            self._said = now
            left = (self._total - self._done) / rate
            logging.info(
                "%s: %d of %d, %s, %.0f s left",
                self._title,
                self._done,
                self._total,
                shown,
                left,
            )

    def __exit__(self, *exc_info):
        if self._bar is not None:
            self._bar.stop()
