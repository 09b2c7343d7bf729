"""Asks a run to stop in time: signals of the scheduler and the time limit."""

import signal
import time
from types import FrameType

import psutil
from absl import logging

EXIT_CODE = 124
SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)


class Preempted(Exception):  # noqa: N818 - a request, not an error
    """Work in progress (an evaluation) was given up because the run must stop."""


class Preemption:
    """Tells the loop when to save and leave with exit code 124.

    A context manager: inside it SIGTERM, SIGUSR1 and SIGINT ask for a stop instead
    of ending the process; a second SIGINT ends it at once. The time limit counts
    from the start of the process, so that imports and compilation are inside it.

    Args:
      time_limit_h: hours this process may run; 0 means no limit.
    """

    def __init__(self, time_limit_h: float):
        self._deadline = None
        if time_limit_h:
            started = psutil.Process().create_time()
            self._deadline = started + time_limit_h * 3600
        self._signal = None
        self._handlers = {}
        self._last_check = time.time()
        self._longest_s = 0.0
        self._save_s = 0.0

    def __enter__(self):
        for number in SIGNALS:
            self._handlers[number] = signal.signal(number, self._on_signal)
        return self

    def __exit__(self, *exc_info):
        for number, handler in self._handlers.items():
            signal.signal(number, handler)

    def _on_signal(self, number: int, frame: FrameType | None):
        del frame
        self._signal = signal.Signals(number).name
        if number == signal.SIGINT:
            # The second one is for a person who does not want to wait.
            signal.signal(signal.SIGINT, self._handlers[signal.SIGINT])

    def saved(self, seconds: float):
        """Notes how long a checkpoint took, so that the next one still fits."""
        self._save_s = max(self._save_s, seconds)

    def requested(self) -> str | None:
        """Returns why the run must stop now, or None.

        The reserve before the time limit is what the longest stretch between two
        calls (a step with its compilation, a batch of an evaluation) and two of the
        slowest checkpoints have taken so far.
        """
        now = time.time()
        self._longest_s = max(self._longest_s, now - self._last_check)
        self._last_check = now
        if self._signal:
            return self._signal
        reserve = self._longest_s + 2 * self._save_s
        if self._deadline is not None and now + reserve >= self._deadline:
            return f"time limit ({self._deadline - now:.0f} s left)"
        return None

    def check(self):
        """Raises `Preempted` if the run must stop now."""
        reason = self.requested()
        if reason:
            logging.info("giving up the work in progress: %s", reason)
            raise Preempted(reason)
