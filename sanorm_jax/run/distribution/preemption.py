"""Requests to stop a run, by signals of the scheduler or the time limit."""

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
    """The run must stop. Work in progress, such as an evaluation, is abandoned."""


class Preemption:
    """Context manager that turns signals and the time limit into requests to stop.

    SIGTERM, SIGUSR1 and SIGINT request a stop. A second SIGINT exits immediately. The
    time limit (0 for none) counts from the start of the process, so it includes imports
    and compilation. A process that is still busy at the limit exits with code 124 and
    keeps its last checkpoint.
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
        # Python runs handlers only after the main thread returns from XLA, which may
        # take minutes. This pipe receives the signal numbers immediately.
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
        """Exit at the time limit or at a second SIGINT."""
        interrupts = 0
        while True:
            left = None
            if self._deadline is not None:
                left = max(self._deadline - time.time(), 0)
            if not select.select([self._reader], [], [], left)[0]:
                end(EXIT_CODE, "time limit reached; the last checkpoint is kept")
            numbers = os.read(self._reader, 64)
            if not numbers:
                return
            interrupts += numbers.count(signal.SIGINT)
            if interrupts > 1:
                end(128 + signal.SIGINT, "interrupted twice; stopped without saving")

    def saved(self, seconds: float):
        """Record the duration of a save, to reserve time for the last one."""
        self._save_s = max(self._save_s, seconds)

    def requested(self) -> str | None:
        """Return the reason to stop now, or None.

        The run stops early enough before the time limit for one more interval between
        two calls, at the longest so far (such as a step with compilation, or a batch of
        an evaluation), plus twice the slowest save.
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
        if reason := self.requested():
            logging.info("stop requested: %s", reason)
            raise Preempted(reason)


def leave_on_signals():
    """Exit with 124 on signals, as long as there is nothing to save."""
    reason = "stopped before training started"
    for number in SIGNALS:
        signal.signal(number, lambda *_: end(EXIT_CODE, reason))


def end(code: int, reason: str):
    """Print the reason and exit immediately, without waiting for threads."""
    sys.stderr.write(f"{reason}\n")
    sys.stderr.flush()
    os._exit(code)
