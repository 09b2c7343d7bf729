"""Speed of training."""

import contextlib
import time

import jax
import psutil
from absl import logging


def is_done(scalars: dict[str, jax.Array]) -> bool:
    """Return whether the devices have finished the step that returned `scalars`."""
    return all(scalar.is_ready() for scalar in scalars.values())


class Rates:
    """Measurement of steps per second and of the fraction of time waiting for data."""

    def __init__(self, step: int):
        self._to_first_step: dict[str, float] | None = None
        self.restart(step)

    def restart(self, step: int):
        """Start a new measurement at `step`."""
        self._first, self._since, self._waited_s = step, time.monotonic(), 0.0

    def took_step(self, step: int, scalars: dict[str, jax.Array]):
        """Wait for the first step, which includes compilation, and exclude it."""
        if self._to_first_step is not None:
            return
        jax.block_until_ready(scalars)
        seconds = time.time() - psutil.Process().create_time()
        logging.info("the first step finished %.1f s after process start", seconds)
        self._to_first_step = {"time/to_first_step_s": seconds}
        self.restart(step)

    @contextlib.contextmanager
    def waiting(self, scalars: dict[str, jax.Array]):
        """Count the time of the body as waiting if the devices are idle afterwards."""
        started = time.monotonic()
        yield
        if is_done(scalars):
            self._waited_s += time.monotonic() - started

    def scalars(self, step: int) -> dict[str, float]:
        """Return the rates since the last restart, and once the time to first step."""
        scalars, self._to_first_step = self._to_first_step or {}, {}
        if step == self._first:
            return scalars
        elapsed_s = time.monotonic() - self._since
        return scalars | {
            "time/steps_per_s": (step - self._first) / elapsed_s,
            "time/data_wait_share": self._waited_s / elapsed_s,
        }
