"""Communication between the processes of a run."""

import contextlib
import itertools
import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar

import jax
import numpy as np
from jax._src import distributed  # JAX's key-value store has no public API.
from jax.experimental import multihost_utils

from sanorm_jax.core.errors import UserError
from sanorm_jax.run.distribution.preemption import Preempted

# Maximum time that hosts wait for one that compiles, saves or draws.
PATIENCE_S = 3600

_T = TypeVar("_T")

# Shared by all instances, because every process sends all messages in the same order.
_message_numbers = itertools.count()


class Hosts:
    """The processes of a run, after `cluster.joined_hosts`.

    Attributes:
      index: Index of this host.
      count: Number of hosts.
      is_main: Whether this host writes files.
    """

    def __init__(self):
        self.index = jax.process_index()
        self.count = jax.process_count()
        self.is_main = self.index == 0

    @contextlib.contextmanager
    def agree(self) -> Iterator[None]:
        """Run the body on every host; raise on all hosts if any host raises.

        All hosts wait for each other. A host whose body raised an error re-raises it.
        The others raise `UserError` with the index of that host, or `Preempted`.
        """
        if self.count == 1:
            yield
            return
        raised = None
        try:
            yield
        except Exception as error:
            raised = error
        message = {} if raised is None else {"error": str(raised)}
        message["preempted"] = isinstance(raised, Preempted)
        messages = self._exchange(message)
        if raised is not None and not isinstance(raised, Preempted):
            raise raised
        failed = {h: m for h, m in enumerate(messages) if "error" in m}
        # An error takes precedence over a request to stop.
        for host, message in failed.items():
            if not message["preempted"]:
                raise UserError(f"host {host}: {message['error']}")
        for message in failed.values():
            raise raised or Preempted(message["error"])

    def on_main(self, function: Callable[[], _T]) -> _T:
        """Call `function` on the main host; return its JSON result on all hosts."""
        value = None
        with self.agree():
            if self.is_main:
                value = function()
        return value if self.count == 1 else self._exchange(value)[0]

    def check_same(self, options: Mapping[str, Any]):
        """Raise `UserError` on every host if the JSON values of the hosts differ."""
        if self.count == 1:
            return
        hosts = self._exchange(dict(options))
        differences = []
        for name in dict.fromkeys(itertools.chain(*hosts)):
            values = [host_options.get(name) for host_options in hosts]
            others = [host for host, value in enumerate(values) if value != values[0]]
            if others:
                differences.append(
                    f"{name}: {values[0]} in process 0, {values[others[0]]} in process "
                    f"{others[0]}"
                )
        if differences:
            raise UserError(
                f"{'; '.join(differences)}; processes that start together are one run: "
                "pass the same options to all, or start each run separately "
                "(srun --ntasks=1)"
            )

    def _exchange(self, message: Any) -> list[Any]:
        """Return the messages of all hosts, by index; fail if a host dies.

        Messages bypass the devices and do not wait for their work.
        """
        client = distributed.global_state.client
        index = next(_message_numbers)
        client.key_value_set(f"sanorm/{index}/{self.index}", json.dumps(message))
        keys = [f"sanorm/{index}/{host}" for host in range(self.count)]
        messages = [
            json.loads(client.blocking_key_value_get(key, PATIENCE_S * 1000))
            for key in keys
        ]
        # A host that has sent this message has read all earlier ones.
        if index:
            client.key_value_delete(f"sanorm/{index - 1}/{self.index}")
        return messages

    def gather(self, tree: Any) -> Any:
        """Concatenate the arrays `[b, ...]` of all hosts to `[B, ...]`."""
        if self.count == 1:
            return tree
        leaves, structure = jax.tree.flatten(tree)
        # Rows as bytes, so that one exchange transfers all leaves.
        rows = [_to_bytes(leaf).reshape(len(leaf), -1) for leaf in leaves]
        ends = np.cumsum([row.shape[1] for row in rows])[:-1]
        joined = multihost_utils.process_allgather(np.concatenate(rows, 1), tiled=True)
        leaves = [
            _from_bytes(part, leaf.dtype, (len(joined), *leaf.shape[1:]))
            for part, leaf in zip(np.split(joined, ends, 1), leaves, strict=True)
        ]
        return jax.tree.unflatten(structure, leaves)

    def broadcast(self, tree: Any) -> Any:
        """Return the main host's tree of arrays on all hosts, bitwise equal.

        The shapes must be the same on all hosts.
        """
        if self.count == 1:
            return tree
        leaves, structure = jax.tree.flatten(jax.tree.map(np.asarray, tree))
        # As bytes, because the broadcast is a sum, which would turn -0.0 into 0.0.
        sent = np.concatenate([_to_bytes(leaf) for leaf in leaves])
        received = multihost_utils.broadcast_one_to_all(sent)
        ends = np.cumsum([leaf.nbytes for leaf in leaves])[:-1]
        leaves = [
            _from_bytes(part, leaf.dtype, leaf.shape)
            for part, leaf in zip(np.split(received, ends), leaves, strict=True)
        ]
        return jax.tree.unflatten(structure, leaves)


def _to_bytes(array: np.ndarray) -> np.ndarray:
    return np.frombuffer(np.ascontiguousarray(array).tobytes(), np.uint8)


def _from_bytes(data: np.ndarray, dtype: np.dtype, shape: tuple) -> np.ndarray:
    return np.frombuffer(data.tobytes(), dtype).reshape(shape)
