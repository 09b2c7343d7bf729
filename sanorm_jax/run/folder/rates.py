"""How fast a training goes."""

import contextlib
import time

import jax
import psutil
from absl import logging


def is_done(scalars: dict[str, jax.Array]) -> bool:
    """Return whether the devices are done with a step."""
    return all(scalar.is_ready() for scalar in scalars.values())


class Rates:
    """How fast steps are taken, and how much of the time they wait for data."""

    def __init__(self, step: int):
        self._to_first_step: dict[str, float] | None = None
        self.restart(step)

    def restart(self, step: int):
        """Count from here on: what lies between is no part of the rates."""
        self._first, self._since, self._waited_s = step, time.monotonic(), 0.0

    def took_step(self, step: int, scalars: dict[str, jax.Array]):
        """Wait for the very first step, which compiles and is no rate."""
        if self._to_first_step is not None:
            return
        jax.block_until_ready(scalars)
        seconds = time.time() - psutil.Process().create_time()
        logging.info("the first step was done %.1f s after the process began", seconds)
        self._to_first_step = {"time/to_first_step_s": seconds}
        self.restart(step)

    @contextlib.contextmanager
    def waiting(self, scalars: dict[str, jax.Array]):
        """Count the time within if the devices are done with the step by its end."""
        started = time.monotonic()
        yield
        if is_done(scalars):
            self._waited_s += time.monotonic() - started

    def scalars(self, step: int) -> dict[str, float]:
        """Return the rates up to a step; the time to the first step once."""
        scalars, self._to_first_step = self._to_first_step or {}, {}
        if step > self._first:
            elapsed = time.monotonic() - self._since
            scalars = scalars | {
                "time/steps_per_s": (step - self._first) / elapsed,
                "time/data_wait_share": self._waited_s / elapsed,
            }
        return scalars
