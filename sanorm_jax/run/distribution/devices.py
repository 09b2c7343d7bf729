"""Devices of a run: `jit` on one, `pmap` on several."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import jax
import numpy as np

from sanorm_jax.core.errors import UserError, check_name
from sanorm_jax.run.distribution.hosts import Hosts

AXIS = "devices"
PARALLELISMS = ("auto", "jit", "pmap")


def compiler_options() -> dict[str, bool]:
    """Return XLA's options for a training step on one device."""
    if jax.default_backend() != "cpu":
        return {}
    # Run independent operations on different cores.
    return {"xla_cpu_enable_concurrency_optimized_scheduler": True}


class Devices:
    """Compilation for the devices of a run, and transfers to and from them.

    A step is written for the batch of one device and averages over `axis_name`, if set.
    Callers pass batches and receive results as if there were one device.

    Args:
      parallelism: `jit`, `pmap`, or `auto` (`pmap` if there are several devices).

    Attributes:
      axis_name: Name of the `pmap` axis; None under `jit`.
      num_devices: Number of devices in use on this host.
      hosts: Hosts that share the run.

    Raises:
      UserError: The parallelism is unknown or does not fit the number of processes.
    """

    def __init__(self, parallelism: str = "auto"):
        check_name("config.parallelism", parallelism, PARALLELISMS)
        several = jax.device_count() > 1
        self.pmapped = parallelism == "pmap" or (parallelism == "auto" and several)
        self.axis_name = AXIS if self.pmapped else None
        self.num_devices = jax.local_device_count() if self.pmapped else 1
        self.hosts = Hosts()
        if self.hosts.count > 1 and not self.pmapped:
            raise UserError(
                f"config.parallelism={parallelism}: {self.hosts.count} processes "
                "cannot share a run under jit; choose pmap"
            )

    def check_batch_size(self, name: str, batch_size: int):
        """Raise `UserError` unless a global batch splits evenly over the devices."""
        devices = self.num_devices * self.hosts.count
        if batch_size <= 0 or batch_size % devices:
            raise UserError(
                f"config.{name}={batch_size}: must be a positive multiple of the "
                f"number of devices ({devices})"
            )

    def compile_train_step(self, step: Callable) -> Callable:
        """Compile `step(state, batch) -> (state, scalars)`, which donates the state."""
        if not self.pmapped:
            options = compiler_options()
            return jax.jit(step, donate_argnums=0, compiler_options=options)
        # The scalars are equal on all devices, so one copy is returned.
        return jax.pmap(step, axis_name=AXIS, donate_argnums=0, out_axes=(0, None))

    def compile_evaluation(self, evaluate: Callable) -> Callable:
        """Compile `evaluate(variables, batch, rng) -> {name: [B, ...]}`."""
        if self.pmapped:
            return jax.pmap(evaluate, axis_name=AXIS, in_axes=(0, 0, None))
        return jax.jit(evaluate)

    def put_state(self, state: Any) -> Any:
        """Copy a tree of host arrays to each device."""
        if not self.pmapped:
            return jax.device_put(state)
        n = self.num_devices
        return self._spread(
            jax.tree.map(lambda x: np.broadcast_to(x, (n, *np.shape(x))), state)
        )

    def _spread(self, tree: Any) -> Any:
        """Put each row of arrays `[devices, ...]` on its device."""
        mesh = jax.sharding.Mesh(np.array(jax.local_devices()), (AXIS,))
        spec = jax.sharding.PartitionSpec(AXIS)
        return jax.device_put(tree, jax.sharding.NamedSharding(mesh, spec))

    def get_state(self, state: Any) -> Any:
        """Return one device's copy of a tree as host arrays."""
        if self.pmapped:
            state = jax.tree.map(lambda x: x.addressable_data(0)[0], state)
        return jax.device_get(state)

    def put_batch(self, batch: dict[str, np.ndarray]) -> dict[str, Any]:
        """Split this host's part `[b, ...]` of a batch over its devices."""
        if not self.pmapped:
            return jax.device_put(batch)
        n = self.num_devices
        # [b, ...] -> [devices, b / devices, ...]
        return self._spread(
            {k: v.reshape(n, len(v) // n, *v.shape[1:]) for k, v in batch.items()}
        )

    def get_batch(self, batch: dict[str, Any]) -> dict[str, np.ndarray]:
        """Return this host's results for each example as host arrays `[b, ...]`."""
        batch = jax.device_get(batch)
        if not self.pmapped:
            return batch
        return {k: v.reshape(-1, *v.shape[2:]) for k, v in batch.items()}

    def prefetch(self, batches: Iterable[dict[str, np.ndarray]]) -> Iterator[Any]:
        """Yield batches on the devices, copying the next one ahead of time."""
        ahead = None
        for batch in batches:
            current, ahead = ahead, self.put_batch(batch)
            if current is not None:
                yield current
        if ahead is not None:
            yield ahead
