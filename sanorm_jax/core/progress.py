"""Progress of long work: a bar in a terminal, periodic lines in a log."""

import time

from absl import logging
from rich import progress as rich_progress

from sanorm_jax.core import console

_LOG_EVERY_S = 15.0


class Progress:
    """Context manager that shows the work done, the rate and the remaining time.

    `total` and `done` (by earlier starts) are numbers of `unit`, a plural noun.
    """

    def __init__(self, title: str, total: int, unit: str, done: int = 0):
        self._title, self._total, self._unit = title, total, unit
        self._done = self._before = done
        self._started = self._logged = time.monotonic()
        self._bar = None

    def __enter__(self):
        if not console.CONSOLE.is_terminal:
            logging.info("%s: %d %s", self._title, self._total, self._unit)
            return self
        self._bar = rich_progress.Progress(
            rich_progress.TextColumn("{task.description}"),
            rich_progress.BarColumn(),
            rich_progress.MofNCompleteColumn(),
            rich_progress.TextColumn("{task.fields[rate]}"),
            rich_progress.TimeRemainingColumn(),
            console=console.CONSOLE,
        )
        self._bar.start()
        # Shorten long paths to leave room for the bar and the rate.
        room = max(console.CONSOLE.width // 3, 12)
        title = self._title if len(self._title) <= room else "…" + self._title[-room:]
        self._task = self._bar.add_task(
            title, total=self._total, completed=self._done, rate=""
        )
        return self

    def advance(self, amount: int, note: str = ""):
        """Add to the work done; `note` is shown after the rate."""
        self._done += amount
        now = time.monotonic()
        rate = (self._done - self._before) / max(now - self._started, 1e-6)
        shown = f"{rate:.1f} {self._unit}/s {note}".strip()
        if self._bar is not None:
            self._bar.update(self._task, advance=amount, rate=shown)
        elif now - self._logged > _LOG_EVERY_S:
            self._logged = now
            done = f"{self._title}: {self._done} of {self._total}"
            left_s = (self._total - self._done) / rate
            logging.info("%s, %s, %.0f s left", done, shown, left_s)

    def __exit__(self, *exc_info):
        if self._bar is not None:
            self._bar.stop()
