"""The only place that knows about devices and hosts."""

import contextlib
import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, TypeVar

import jax
import numpy as np
from absl import logging
from jax._src import distributed  # its key-value store has no public name
from jax.experimental import multihost_utils

from sanorm_jax.data.store import StoreError
from sanorm_jax.errors import ConfigError
from sanorm_jax.run import cluster
from sanorm_jax.run.preemption import Preempted

AXIS = "devices"
PARALLELISMS = ("auto", "jit", "pmap")
# A host that is silent for this long is taken for dead, and ends all others.
HEARTBEAT_TIMEOUT_S = 60
# Hosts wait this long for a living one that compiles, saves or draws.
PATIENCE_S = 3600

_T = TypeVar("_T")


@contextlib.contextmanager
def joined_hosts(
    coordinator_address: str | None = None,
    num_processes: int | None = None,
    process_id: int | None = None,
    local_device_ids: Sequence[str] | None = None,
):
    """Joins the processes of one run; around all that uses JAX.

    What is not given is taken from the environment: `JAX_COORDINATOR_ADDRESS`,
    `JAX_NUM_PROCESSES` and `JAX_PROCESS_ID`, or else a Slurm step of several tasks.
    Without any of these there is one process. Each process uses the devices that
    `cluster.find_local_devices` gives it, as a rule all that it sees.

    If a process dies the others end too, in `HEARTBEAT_TIMEOUT_S` at most and with an
    exit code that is neither 0 nor that of a preempted run: with 1 and an error line
    where an operation of theirs fails, else aborted by JAX.

    Args:
      coordinator_address: host and port of process 0.
      num_processes: of the run.
      process_id: of this process, from 0.
      local_device_ids: GPUs of this process, of those that it sees, from 0.

    Raises:
      ConfigError: no such devices, only some of the others given, or process 0 cannot
        be reached.
    """
    found = cluster.find_hosts(coordinator_address, num_processes, process_id)
    devices = cluster.find_local_devices(local_device_ids)
    if devices is not None:
        logging.info("takes GPUs %s of those that it sees", devices)
        visible = ",".join(map(str, devices))
        jax.config.update("jax_cuda_visible_devices", visible)
        jax.config.update("jax_rocm_visible_devices", visible)
    if found is None or found[1] == 1:
        yield
        return
    address, count, index = found
    # JAX's own handler of SIGTERM would hide the signal from `Preemption`.
    jax.config.update("jax_enable_preemption_service", False)
    logging.info("process %d of %d, coordinator %s", index, count, address)
    try:
        jax.distributed.initialize(
            address,
            count,
            index,
            cluster_detection_method="deactivate",
            heartbeat_timeout_seconds=HEARTBEAT_TIMEOUT_S,
        )
    except RuntimeError as error:
        raise ConfigError(
            f"--coordinator_address={address}: {count} processes did not meet there "
            f"({str(error).splitlines()[0]})"
        ) from None
    try:
        yield
    except (ConfigError, StoreError):
        raise
    except Exception as error:
        # The end of the interpreter would wait for the hosts that wait for this one.
        logging.exception("host %d of %d cannot go on", index, count)
        sys.stderr.write(
            f"error: host {index} failed or lost another host "
            f"({str(error).splitlines()[0][:200]}); start all again, and the run goes "
            "on at its last checkpoint\n"
        )
        sys.stderr.flush()
        os._exit(1)


def compiler_options() -> dict[str, bool]:
    """Returns XLA's options for a training step on one device."""
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
      host_index: of this host, from 0.
      num_hosts: that work on the run together.
      is_main: whether this host writes.
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
        self._num_messages = 0
        if self.num_hosts > 1 and not self.pmapped:
            raise ConfigError(
                f"config.parallelism={parallelism}: one of {self.num_hosts} processes "
                "cannot train alone; set it to pmap"
            )

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
            options = compiler_options()
            return jax.jit(step, donate_argnums=0, compiler_options=options)
        # The scalars are alike on all devices: one copy leaves, and nothing else runs.
        return jax.pmap(step, axis_name=AXIS, donate_argnums=0, out_axes=(0, None))

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
        """Joins per-example results, host arrays [b, ...], of all hosts to [B, ...]."""
        if self.num_hosts == 1:
            return tree
        leaves, structure = jax.tree.flatten(tree)
        # Each example's row as bytes: one exchange, whatever there is of results.
        rows = [_to_bytes(leaf).reshape(len(leaf), -1) for leaf in leaves]
        ends = np.cumsum([row.shape[1] for row in rows])[:-1]
        joined = multihost_utils.process_allgather(np.concatenate(rows, 1), tiled=True)
        return jax.tree.unflatten(
            structure,
            [
                _from_bytes(part, leaf.dtype, (len(joined), *leaf.shape[1:]))
                for part, leaf in zip(np.split(joined, ends, 1), leaves, strict=True)
            ],
        )

    def together(self, function: Callable[[], _T]) -> _T:
        """Runs `function` on every host and returns its value on this one.

        Waits until all hosts are done. What was raised on one is raised on all: as it
        was on its own host, on the others as `Preempted` or, if it was an error, as
        `ConfigError` that tells which host it was.
        """
        if self.num_hosts == 1:
            return function()
        value, raised = None, None
        try:
            value = function()
        except Exception as error:
            raised = error
        told = {} if raised is None else {"told": str(raised)}
        told["preempted"] = isinstance(raised, Preempted)
        messages = self._exchange(told)
        if raised is not None and not isinstance(raised, Preempted):
            raise raised
        failed = {h: m for h, m in enumerate(messages) if "told" in m}
        # An error ends the run, whoever was asked to stop at the same time.
        for host, message in failed.items():
            if not message["preempted"]:
                raise ConfigError(f"host {host}: {message['told']}")
        for message in failed.values():
            raise raised or Preempted(message["told"])
        return value

    def on_main(self, function: Callable[[], _T]) -> _T:
        """Returns on all hosts what `function` returns, as JSON, on the main one."""
        value = self.together(function if self.is_main else lambda: None)
        if self.num_hosts == 1:
            return value
        return self._exchange(value)[0]

    def _exchange(self, message: Any) -> list[Any]:
        """Returns the messages of all hosts, in order, on all of them.

        They go beside the devices' work, and fail if a host dies.
        """
        client = distributed.global_state.client
        index, self._num_messages = self._num_messages, self._num_messages + 1
        client.key_value_set(f"sanorm/{index}/{self.host_index}", json.dumps(message))
        messages = [
            json.loads(
                client.blocking_key_value_get(
                    f"sanorm/{index}/{host}", PATIENCE_S * 1000
                )
            )
            for host in range(self.num_hosts)
        ]
        # Who sends a message has read all the ones before it.
        if index:
            client.key_value_delete(f"sanorm/{index - 1}/{self.host_index}")
        return messages

    def broadcast(self, tree: Any) -> Any:
        """Returns the main host's tree of host arrays, bit by bit, on all hosts.

        Args:
          tree: of arrays that have the same shapes on all hosts.
        """
        if self.num_hosts == 1:
            return tree
        leaves, structure = jax.tree.flatten(jax.tree.map(np.asarray, tree))
        # As bytes: the sum that carries them would turn -0.0 into 0.0.
        sent = np.concatenate([_to_bytes(leaf) for leaf in leaves])
        received = multihost_utils.broadcast_one_to_all(sent)
        ends = np.cumsum([leaf.nbytes for leaf in leaves])[:-1]
        leaves = [
            _from_bytes(part, leaf.dtype, leaf.shape)
            for part, leaf in zip(np.split(received, ends), leaves, strict=True)
        ]
        return jax.tree.unflatten(structure, leaves)

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


def _to_bytes(array: np.ndarray) -> np.ndarray:
    return np.frombuffer(np.ascontiguousarray(array).tobytes(), np.uint8)


def _from_bytes(data: np.ndarray, dtype: np.dtype, shape: tuple) -> np.ndarray:
    return np.frombuffer(data.tobytes(), dtype).reshape(shape)
