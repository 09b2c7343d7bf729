"""The only place that knows about devices: `jit` on one, `pmap` on several."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import jax
import numpy as np

from sanorm_jax.core.errors import UserError
from sanorm_jax.run.distribution.hosts import Hosts

AXIS = "devices"
PARALLELISMS = ("auto", "jit", "pmap")


def compiler_options() -> dict[str, bool]:
    """Return XLA's options for a training step on one device."""
    if jax.default_backend() != "cpu":
        return {}
    # Lets operations that do not wait for one another run on different cores.
    return {"xla_cpu_enable_concurrency_optimized_scheduler": True}


class Devices:
    """Runs a step on one device under `jit`, or on several under `pmap`.

    Steps are written for the batch of one device and take the global mean over
    `axis_name` where it is set; batches enter and results leave as if there were one
    device.

    Args:
      parallelism: `jit`, `pmap`, or `auto`: `pmap` if there are several devices.

    Attributes:
      axis_name: that steps are mapped over, None under `jit`.
      num_devices: of this host that are used.
      hosts: that work on the run together.
    """

    def __init__(self, parallelism: str = "auto"):
        if parallelism not in PARALLELISMS:
            raise UserError(
                f"config.parallelism={parallelism}: must be one of "
                f"{', '.join(PARALLELISMS)}"
            )
        several = jax.device_count() > 1
        self.pmapped = parallelism == "pmap" or (parallelism == "auto" and several)
        self.axis_name = AXIS if self.pmapped else None
        self.num_devices = jax.local_device_count() if self.pmapped else 1
        self.hosts = Hosts()
        if self.hosts.count > 1 and not self.pmapped:
            raise UserError(
                f"config.parallelism={parallelism}: one of {self.hosts.count} "
                "processes cannot train alone; set it to pmap"
            )

    def check_batch_size(self, name: str, batch_size: int):
        """Raise `UserError` if the devices do not divide a global batch."""
        devices = self.num_devices * self.hosts.count
        if batch_size <= 0 or batch_size % devices:
            raise UserError(
                f"config.{name}={batch_size}: must be a positive multiple of the "
                f"number of devices ({devices})"
            )

    def compile_train_step(self, step: Callable) -> Callable:
        """Compile `step(state, batch) -> (state, scalars)`; the old state is donated.

        State lives on the devices (`put_state`), the scalars come back as one copy.
        """
        if not self.pmapped:
            options = compiler_options()
            return jax.jit(step, donate_argnums=0, compiler_options=options)
        # The scalars are alike on all devices: one copy leaves, and nothing else runs.
        return jax.pmap(step, axis_name=AXIS, donate_argnums=0, out_axes=(0, None))

    def compile_evaluation(self, evaluate: Callable) -> Callable:
        """Compile `evaluate(variables, batch, rng) -> {name: [B, ...]}`."""
        if not self.pmapped:
            return jax.jit(evaluate)
        return jax.pmap(evaluate, axis_name=AXIS, in_axes=(0, 0, None))

    def put_state(self, state: Any) -> Any:
        """Put a tree of host arrays on the devices."""
        if not self.pmapped:
            return jax.device_put(state)
        n = self.num_devices
        return self._spread(
            jax.tree.map(lambda x: np.broadcast_to(x, (n, *np.shape(x))), state)
        )

    def _spread(self, tree: Any) -> Any:
        """Put [devices, ...] arrays such that each device has its row."""
        mesh = jax.sharding.Mesh(np.array(jax.local_devices()), (AXIS,))
        spec = jax.sharding.PartitionSpec(AXIS)
        return jax.device_put(tree, jax.sharding.NamedSharding(mesh, spec))

    def get_state(self, state: Any) -> Any:
        """Return one copy of a tree on the devices as host arrays."""
        return jax.device_get(_first(state) if self.pmapped else state)

    def put_batch(self, batch: dict[str, np.ndarray]) -> dict[str, Any]:
        """Put this host's part of a batch on its devices."""
        if not self.pmapped:
            return jax.device_put(batch)
        n = self.num_devices
        # [b, ...] -> [devices, b / devices, ...]
        return self._spread(
            {k: v.reshape(n, len(v) // n, *v.shape[1:]) for k, v in batch.items()}
        )

    def get_batch(self, batch: dict[str, Any]) -> dict[str, np.ndarray]:
        """Return per-example results of this host as host arrays [b, ...]."""
        batch = jax.device_get(batch)
        if not self.pmapped:
            return batch
        return {k: v.reshape(-1, *v.shape[2:]) for k, v in batch.items()}

    def prefetch(self, batches: Iterable[dict[str, np.ndarray]]) -> Iterator[Any]:
        """Yield batches on the devices, one copied ahead of the one in use."""
        ahead = None
        for batch in batches:
            current, ahead = ahead, self.put_batch(batch)
            if current is not None:
                yield current
        if ahead is not None:
            yield ahead


def _first(tree: Any) -> Any:
    return jax.tree.map(lambda x: x.addressable_data(0)[0], tree)
