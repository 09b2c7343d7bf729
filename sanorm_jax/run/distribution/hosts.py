"""The processes of a run: what they agree on, and what they tell one another."""

import contextlib
import itertools
import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar

import jax
import numpy as np
from jax._src import distributed  # its key-value store has no public name
from jax.experimental import multihost_utils

from sanorm_jax.core.errors import UserError
from sanorm_jax.run.distribution.preemption import Preempted

# Hosts wait this long for a living one that compiles, saves or draws.
PATIENCE_S = 3600

_T = TypeVar("_T")

# Of this process: all of them send the same messages, in the same order.
_message_numbers = itertools.count()


class Hosts:
    """The processes of a run, after `cluster.joined_hosts`; one of them is this.

    Attributes:
      index: of this host, from 0.
      count: hosts that work on the run together.
      is_main: whether this host writes.
    """

    def __init__(self):
        self.index = jax.process_index()
        self.count = jax.process_count()
        self.is_main = self.index == 0

    @contextlib.contextmanager
    def agree(self) -> Iterator[None]:
        """Run the body on every host; an exception on one is raised on all.

        Waits until all hosts are done. The host that raised raises the same again. The
        others raise `Preempted` or, for an error, `UserError` with the host's number.
        """
        if self.count == 1:
            yield
            return
        raised = None
        try:
            yield
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
                raise UserError(f"host {host}: {message['told']}")
        for message in failed.values():
            raise raised or Preempted(message["told"])

    def on_main(self, function: Callable[[], _T]) -> _T:
        """Return on all hosts what `function` returns, as JSON, on the main one."""
        value = None
        with self.agree():
            if self.is_main:
                value = function()
        if self.count == 1:
            return value
        return self._exchange(value)[0]

    def check_same(self, given: Mapping[str, Any]):
        """Raise `UserError` on every host if they were given different options.

        Args:
          given: Values, as JSON knows them, by name of the option.
        """
        if self.count == 1:
            return
        of_hosts = self._exchange(dict(given))
        differences = []
        for name in dict.fromkeys(itertools.chain(*of_hosts)):
            values = [options.get(name) for options in of_hosts]
            others = [host for host, value in enumerate(values) if value != values[0]]
            if others:
                differences.append(
                    f"{name}: {values[0]} in process 0, {values[others[0]]} in process "
                    f"{others[0]}"
                )
        if differences:
            raise UserError(
                f"{'; '.join(differences)}; processes that are started together are "
                "one run: give them the same options, or start each run by itself "
                "(srun --ntasks=1)"
            )

    def _exchange(self, message: Any) -> list[Any]:
        """Return the messages of all hosts, in order, on all of them.

        They go beside the devices' work, and fail if a host dies.
        """
        client = distributed.global_state.client
        index = next(_message_numbers)
        client.key_value_set(f"sanorm/{index}/{self.index}", json.dumps(message))
        messages = [
            json.loads(
                client.blocking_key_value_get(
                    f"sanorm/{index}/{host}", PATIENCE_S * 1000
                )
            )
            for host in range(self.count)
        ]
        # Who sends a message has read all the ones before it.
        if index:
            client.key_value_delete(f"sanorm/{index - 1}/{self.index}")
        return messages

    def gather(self, tree: Any) -> Any:
        """Join per-example results, host arrays [b, ...], of all hosts to [B, ...]."""
        if self.count == 1:
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

    def broadcast(self, tree: Any) -> Any:
        """Return the main host's tree of host arrays, bit by bit, on all hosts.

        Args:
          tree: of arrays that have the same shapes on all hosts.
        """
        if self.count == 1:
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


def _to_bytes(array: np.ndarray) -> np.ndarray:
    return np.frombuffer(np.ascontiguousarray(array).tobytes(), np.uint8)


def _from_bytes(data: np.ndarray, dtype: np.dtype, shape: tuple) -> np.ndarray:
    return np.frombuffer(data.tobytes(), dtype).reshape(shape)
