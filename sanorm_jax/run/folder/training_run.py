"""A run in training: its folder, its state, and what it saves."""

import contextlib
import importlib.metadata
import pathlib
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
import ml_collections
from absl import logging

from sanorm_jax.core import console, run_data
from sanorm_jax.core.errors import UserError
from sanorm_jax.run.distribution.devices import Devices
from sanorm_jax.run.distribution.preemption import Preemption
from sanorm_jax.run.folder import checkpoints, workdir, writers
from sanorm_jax.run.parameters.init_from import init_from
from sanorm_jax.tasks.base import Task

_PACKAGES = ("jax", "flax", "optax", "orbax-checkpoint")


class TrainingRun:
    """What the phases of a training share; made by `open_run`.

    Attributes:
      config: of the experiment.
      workdir: folder of the run.
      devices: that it trains on.
      task: that it trains.
      preemption: what asks it to stop.
      step: that it starts from.
      state: on the devices.
      writer: of scalars and figures, None on all hosts but the main one.
    """

    def __init__(
        self,
        config: ml_collections.ConfigDict,
        workdir: pathlib.Path,
        devices: Devices,
        task: Task,
        preemption: Preemption,
    ):
        self.config = config
        self.workdir = workdir
        self.devices = devices
        self.task = task
        self.preemption = preemption
        self.step = 0
        self.state: Any = None
        self.writer: writers.Writer | None = None
        self._checkpoints: checkpoints.Checkpoints | None = None
        self._meta = {
            "fingerprints": task.dataset.fingerprints,
            "versions": {name: importlib.metadata.version(name) for name in _PACKAGES},
        }
        self._wall_time_before_s = 0.0
        self._started = time.time()

    @property
    def wall_time_s(self) -> float:
        """Seconds in training over all restarts."""
        return self._wall_time_before_s + time.time() - self._started

    def is_due(self, every: str, step: int) -> bool:
        """Return whether step `step` is the last, or a multiple of a config field.

        Args:
          every: Name of the field, such as `log_every_steps`.
          step: Number of steps taken.
        """
        return step % self.config[every] == 0 or step == self.config.num_train_steps

    def save(self, step: int, *, wait: bool = False):
        """Save a checkpoint from the main host; all hosts wait for it if they must."""
        if self._checkpoints:
            self._checkpoints.save(
                step,
                self.devices.get_state(self.state),
                self._meta | {"wall_time_s": self.wall_time_s},
                wait=wait,
            )
            self.preemption.saved(self._checkpoints.last_save_s)
        if wait:
            with self.devices.hosts.agree():
                pass  # All hosts wait for the main one.

    def check_saved(self, step: int):
        """Raise `UserError` if the checkpoint of `step` is not on disk."""
        if self._checkpoints and step not in self._checkpoints.steps():
            raise UserError(
                f"{self.workdir}: the last checkpoint could not be saved; make room "
                "and start again"
            )

    def begin(self, state: Any, stack: contextlib.ExitStack):
        """Open the folder and put the state to start from on the devices."""
        hosts = self.devices.hosts
        with hosts.agree():
            opened = self._open_folder(state, stack)
        _describe(opened)
        state = hosts.broadcast(opened)
        self.step = int(state.step)
        if self.step:
            logging.info("resuming at step %d", self.step)
        # No copy of it stays on the host.
        self.state = self.devices.put_state(state)
        self._started = time.time()

    def _open_folder(self, state: Any, stack: contextlib.ExitStack) -> Any:
        """Claim the folder and returns the state to start from, on the main host."""
        if not self.devices.hosts.is_main:
            return state
        config = self.config
        stack.enter_context(workdir.claim(self.workdir, config))
        stack.enter_context(console.LogFile(self.workdir))
        self._checkpoints = checkpoints.Checkpoints(
            self.workdir, num_checkpoints=config.num_checkpoints
        )
        stack.callback(self._checkpoints.close)
        restored = checkpoints.restore(self.workdir, state)
        if restored is not None:
            state, saved = restored
            self._wall_time_before_s = saved["wall_time_s"]
            self._check_fingerprints(saved)
            self._checkpoints.drop_after(int(state.step))
        elif config.init_from:
            state = init_from(state, config, self.task)
        workdir.note_start(self.workdir, int(state.step))
        dataset = self.task.dataset
        size = dataset.settings["image_size"]
        run_data.note(
            self.workdir,
            size,
            dataset.feature_settings,
            dataset.projection,
            dataset.fields,
        )
        self.writer = writers.Writer(self.workdir, int(state.step), config)
        stack.callback(self.writer.close)
        return state

    def _check_fingerprints(self, saved: dict[str, Any]):
        if saved["fingerprints"] != self._meta["fingerprints"]:
            raise UserError(
                f"config.data_dir: the data differs from what the run in {self.workdir}"
                " was trained on so far; point it to the same data, or choose another "
                "--workdir"
            )


@contextlib.contextmanager
def open_run(
    config: ml_collections.ConfigDict,
    workdir: pathlib.Path,
    devices: Devices,
    task: Task,
    new_state: Callable[[], Any],
    preemption: Preemption,
) -> Iterator[TrainingRun]:
    """Yield the run in `workdir`: gone on with, begun from another, or new.

    Args:
      config: of the experiment.
      workdir: folder of the run; made if absent, and held while the run is open.
      devices: to train on.
      task: to train.
      new_state: makes the `TrainState` on the host that a new run starts from.
      preemption: what asks it to stop.

    Raises:
      UserError: the folder is held, or of another config or other data; no
        checkpoint there can be read.
    """
    run = TrainingRun(config, workdir, devices, task, preemption)
    with contextlib.ExitStack() as stack:
        # Also of a host that fails as it begins, what is open is closed.
        run.begin(new_state(), stack)
        yield run


def _describe(state: Any):
    """Log the size of the model, and a table of its parameters to the log file."""
    # clu takes TensorFlow along: imported where a run begins, not with this module.
    from clu import parameter_overview

    parameter_overview.log_parameter_overview(state.params)
    count = sum(leaf.size for leaf in jax.tree.leaves(state.params))
    logging.info("a model of %s parameters", f"{count:,}")


def is_evaluated(
    path: pathlib.Path, config: ml_collections.ConfigDict, step: int
) -> bool:
    """Return whether the run in `path` has written the evaluations of a step."""
    names = tuple(f"{name}/" for name in config.evaluations)
    lines = workdir.read_lines(path / writers.METRICS_FILE)
    return not names or any(
        line["step"] == step and any(key.startswith(names) for key in line)
        for line in lines
    )


def is_finished(path: pathlib.Path, config: ml_collections.ConfigDict) -> bool:
    """Return whether the run in `path` has taken and evaluated all its steps."""
    last = max(workdir.saved_steps(path), default=-1)
    return last >= config.num_train_steps and is_evaluated(path, config, last)
