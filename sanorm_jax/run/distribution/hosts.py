"""Communication between the processes of a run."""

import contextlib
import itertools
import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
from jax._src import distributed  # JAX's key-value store has no public API.
from jax.experimental import multihost_utils

from sanorm_jax.core.errors import UserError
from sanorm_jax.run.distribution.preemption import Preempted

# Maximum time that hosts wait for one that compiles, saves or draws.
PATIENCE_S = 3600

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

    def on_main(self, function: Callable[[], Any]) -> Any:
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
        return multihost_utils.process_allgather(tree, tiled=True)

    def broadcast(self, tree: Any) -> Any:
        """Return the main host's tree of arrays on all hosts, bitwise equal.

        The shapes must be the same on all hosts.
        """
        # JAX's broadcast is a sum, which would turn -0.0 into 0.0.
        stacked = multihost_utils.process_allgather(tree)
        return jax.tree.map(lambda x: x[0], stacked)
