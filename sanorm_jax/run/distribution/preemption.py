"""Asks a run to stop in time: signals of the scheduler and the time limit."""

import os
import select
import signal
import sys
import threading
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
    from the start of the process, so that imports and compilation are inside it. A
    process that is still at work when it is over (compiling, say) ends all the same,
    with exit code 124 and what it has saved so far.

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
        # Python runs a handler when the main thread is back from XLA, which may be
        # minutes later; the numbers of signals come through this pipe at once.
        self._reader, self._writer = os.pipe()
        os.set_blocking(self._writer, False)
        self._old_writer = signal.set_wakeup_fd(self._writer)
        self._watch = threading.Thread(target=self._watch_process, daemon=True)
        self._watch.start()
        return self

    def __exit__(self, *exc_info):
        signal.set_wakeup_fd(self._old_writer)
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        os.close(self._writer)
        self._watch.join()
        os.close(self._reader)

    def _on_signal(self, number: int, frame: FrameType | None):
        del frame
        self._signal = signal.Signals(number).name

    def _watch_process(self):
        """End the process at the time limit and at a second SIGINT."""
        interrupts = 0
        while True:
            left = None
            if self._deadline is not None:
                left = max(self._deadline - time.time(), 0)
            if not select.select([self._reader], [], [], left)[0]:
                end(EXIT_CODE, "the time limit is over; ended with what was saved")
            numbers = os.read(self._reader, 64)
            if not numbers:
                return
            # The second one is for a person who does not want to wait.
            interrupts += numbers.count(signal.SIGINT)
            if interrupts > 1:
                end(128 + signal.SIGINT, "ended by a second SIGINT, without saving")

    def saved(self, seconds: float):
        """Record how long a checkpoint took, so that the next one still fits."""
        self._save_s = max(self._save_s, seconds)

    def requested(self) -> str | None:
        """Return why the run must stop now, or None.

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
        """Raise `Preempted` if the run must stop now."""
        reason = self.requested()
        if reason:
            logging.info("giving up the work in progress: %s", reason)
            raise Preempted(reason)


def leave_on_signals():
    """Let signals end the process with 124 while it has nothing to save yet."""
    for number in SIGNALS:
        signal.signal(number, lambda *_: end(EXIT_CODE, "stopped before it began"))


def end(code: int, reason: str):
    """End the process at once, whatever its threads do, with a line that says why."""
    sys.stderr.write(f"{reason}\n")
    sys.stderr.flush()
    os._exit(code)
