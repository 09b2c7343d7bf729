"""The only place that knows about devices."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from sanorm_jax.errors import ConfigError

AXIS = "devices"
PARALLELISMS = ("auto", "jit", "pmap")


class Devices:
    """Runs a step on one device under `jit`, or on several under `pmap`.

    Steps are written for the batch of one device and take the global mean over
    `axis_name` where it is set; batches enter and results leave as if there were one
    device.

    Args:
      parallelism: `jit`, `pmap`, or `auto`: `pmap` if there are several devices.
    """

    def __init__(self, parallelism: str = "auto"):
        if parallelism not in PARALLELISMS:
            raise ConfigError(
                f"config.parallelism={parallelism}: must be one of "
                f"{', '.join(PARALLELISMS)}"
            )
        several = jax.device_count() > 1
        self.pmapped = parallelism == "pmap" or (parallelism == "auto" and several)
        self.axis_name = AXIS if self.pmapped else None
        self.num_devices = jax.local_device_count() if self.pmapped else 1
        self.host_index = jax.process_index()
        self.num_hosts = jax.process_count()
        self.is_main = self.host_index == 0

    def check_batch_size(self, name: str, batch_size: int):
        """Raises `ConfigError` if the devices do not divide a global batch."""
        devices = self.num_devices * self.num_hosts
        if batch_size <= 0 or batch_size % devices:
            raise ConfigError(
                f"config.{name}={batch_size}: must be a positive multiple of the "
                f"number of devices ({devices})"
            )

    def compile_train_step(self, step: Callable) -> Callable:
        """Compiles `step(state, batch) -> (state, scalars)`; the old state is donated.

        State lives on the devices (`put_state`), the scalars come back as one copy.
        """
        if not self.pmapped:
            return jax.jit(step, donate_argnums=0)
        compiled = jax.pmap(step, axis_name=AXIS, donate_argnums=0)

        def run(state, batch):
            state, scalars = compiled(state, batch)
            return state, _first(scalars)

        return run

    def compile_evaluation(self, evaluate: Callable) -> Callable:
        """Compiles `evaluate(variables, batch) -> {name: [B, ...]}`."""
        if not self.pmapped:
            return jax.jit(evaluate)
        return jax.pmap(evaluate, axis_name=AXIS)

    def put_state(self, state: Any) -> Any:
        """Puts a tree of host arrays on the devices."""
        if not self.pmapped:
            return jax.device_put(state)
        n = self.num_devices
        return self._spread(
            jax.tree.map(lambda x: np.broadcast_to(x, (n, *np.shape(x))), state)
        )

    def _spread(self, tree: Any) -> Any:
        """Puts [devices, ...] arrays such that each device has its row."""
        mesh = jax.sharding.Mesh(np.array(jax.local_devices()), (AXIS,))
        spec = jax.sharding.PartitionSpec(AXIS)
        return jax.device_put(tree, jax.sharding.NamedSharding(mesh, spec))

    def get_state(self, state: Any) -> Any:
        """Returns one copy of a tree on the devices as host arrays."""
        return jax.device_get(_first(state) if self.pmapped else state)

    def put_batch(self, batch: dict[str, np.ndarray]) -> dict[str, Any]:
        """Puts this host's part of a batch on its devices."""
        if not self.pmapped:
            return jax.device_put(batch)
        n = self.num_devices
        # [b, ...] -> [devices, b / devices, ...]
        return self._spread(
            {k: v.reshape(n, len(v) // n, *v.shape[1:]) for k, v in batch.items()}
        )

    def get_batch(self, batch: dict[str, Any]) -> dict[str, np.ndarray]:
        """Returns per-example results of this host as host arrays [b, ...]."""
        batch = jax.device_get(batch)
        if not self.pmapped:
            return batch
        return {k: v.reshape(-1, *v.shape[2:]) for k, v in batch.items()}

    def gather(self, tree: Any) -> Any:
        """Joins per-example results [b, ...] of all hosts to [B, ...]."""
        if self.num_hosts == 1:
            return tree
        return multihost_utils.process_allgather(tree, tiled=True)

    def agree(self, reason: str | None) -> str | None:
        """Returns a reason to stop if any host has one, the same on all hosts."""
        if self.num_hosts == 1:
            return reason
        asked = multihost_utils.process_allgather(np.array(reason is not None))
        return (reason or "another host must stop") if asked.any() else None

    def prefetch(self, batches: Iterable[dict[str, np.ndarray]]) -> Iterator[Any]:
        """Yields batches on the devices, one copied ahead of the one in use."""
        ahead = None
        for batch in batches:
            current, ahead = ahead, self.put_batch(batch)
            if current is not None:
                yield current
        if ahead is not None:
            yield ahead


def _first(tree: Any) -> Any:
    return jax.tree.map(lambda x: x.addressable_data(0)[0], tree)
