"""State and outputs of a run during training."""

import contextlib
import dataclasses
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
from sanorm_jax.run.folder import workdir as workdir_lib
from sanorm_jax.run.folder import writers
from sanorm_jax.run.folder.checkpoints import Checkpoints, restore
from sanorm_jax.run.parameters.init_from import init_from
from sanorm_jax.tasks.base import Task

_PACKAGES = ("jax", "flax", "optax", "orbax-checkpoint")


@dataclasses.dataclass
class TrainingRun:
    """A run during training, opened by `open_run`.

    Attributes:
      step: Step that the run starts from.
      state: `TrainState` on the devices.
      writer: Writer of scalars and figures; None except on the main host.
      checkpoints: Checkpoints of the run; None except on the main host.
      wall_time_before_s: Seconds of training in earlier starts.
    """

    config: ml_collections.ConfigDict
    workdir: pathlib.Path
    devices: Devices
    task: Task
    preemption: Preemption
    step: int = 0
    state: Any = None
    writer: writers.Writer | None = None
    checkpoints: Checkpoints | None = None
    wall_time_before_s: float = 0.0
    started: float = 0.0

    @property
    def wall_time_s(self) -> float:
        """Seconds in training over all starts."""
        return self.wall_time_before_s + time.time() - self.started

    def is_due(self, every: str, step: int) -> bool:
        """Return whether `step` is the last, or a multiple of the field `every`."""
        return step % self.config[every] == 0 or step == self.config.num_train_steps

    def save(self, step: int, *, wait: bool = False):
        """Save a checkpoint on the main host; with `wait`, all hosts wait for it."""
        if self.checkpoints:
            meta = {
                "fingerprints": self.task.dataset.fingerprints,
                "versions": {p: importlib.metadata.version(p) for p in _PACKAGES},
                "wall_time_s": self.wall_time_s,
            }
            state = self.devices.get_state(self.state)
            self.checkpoints.save(step, state, meta, wait=wait)
            self.preemption.saved(self.checkpoints.last_save_s)
        if wait:
            with self.devices.hosts.agree():
                pass  # All hosts wait for the main one.

    def check_saved(self, step: int):
        """Raise `UserError` if the checkpoint of `step` is not on disk."""
        if self.checkpoints and step not in self.checkpoints.steps():
            raise UserError(
                f"{self.workdir}: the last checkpoint could not be saved; free disk "
                "space and run the command again"
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
    """Resume the run in `workdir`, or start one, from `config.init_from` if set.

    `workdir` is created if missing and locked while the run is open. `new_state`
    returns the initial `TrainState` on the host.

    Raises:
      UserError: The folder is locked, belongs to another config or other data, or none
        of its checkpoints can be read.
    """
    run = TrainingRun(config, workdir, devices, task, preemption)
    state = new_state()
    with contextlib.ExitStack() as stack:
        with devices.hosts.agree():
            if devices.hosts.is_main:
                state = _open_folder(run, state, stack)
        from clu import parameter_overview  # This imports TensorFlow.

        # Each parameter goes to the log file.
        parameter_overview.log_parameter_overview(state.params)
        count = sum(leaf.size for leaf in jax.tree.leaves(state.params))
        logging.info("the model has %s parameters", f"{count:,}")
        state = devices.hosts.broadcast(state)
        run.step = int(state.step)
        if run.step:
            logging.info("resuming at step %d", run.step)
        run.state = devices.put_state(state)
        del state  # The host keeps no copy.
        run.started = time.time()
        yield run


def _open_folder(run: TrainingRun, state: Any, stack: contextlib.ExitStack) -> Any:
    """Lock the folder, open its outputs and return the state to start from."""
    config, path, dataset = run.config, run.workdir, run.task.dataset
    stack.enter_context(workdir_lib.claim(path, config))
    stack.enter_context(console.log_to(path))
    run.checkpoints = Checkpoints(path, num_checkpoints=config.num_checkpoints)
    stack.callback(run.checkpoints.close)
    if restored := restore(path, state):
        state, meta = restored
        if meta["fingerprints"] != dataset.fingerprints:
            raise UserError(
                "config.data_dir: the data differs from that of earlier starts of the "
                f"run in {path}; set it to the same data, or choose another --workdir"
            )
        run.wall_time_before_s = meta["wall_time_s"]
        run.checkpoints.drop_after(int(state.step))
    elif config.init_from:
        state = init_from(state, config, run.task)
    step = int(state.step)
    workdir_lib.record_start(path, step)
    run_data.write(
        path,
        dataset.settings["image_size"],
        dataset.feature_settings,
        dataset.projection,
        dataset.fields,
    )
    run.writer = writers.Writer(path, step, config)
    stack.callback(run.writer.close)
    return state


def is_evaluated(
    workdir: pathlib.Path, config: ml_collections.ConfigDict, step: int
) -> bool:
    """Return whether the run in `workdir` has logged the evaluations of a step."""
    names = tuple(f"{name}/" for name in config.evaluations)
    lines = workdir_lib.read_lines(workdir / writers.METRICS_FILE)
    return not names or any(
        line["step"] == step and any(key.startswith(names) for key in line)
        for line in lines
    )


def is_finished(workdir: pathlib.Path, config: ml_collections.ConfigDict) -> bool:
    """Return whether the run in `workdir` has taken and evaluated all its steps."""
    last = max(workdir_lib.saved_steps(workdir), default=-1)
    return last >= config.num_train_steps and is_evaluated(workdir, config, last)
