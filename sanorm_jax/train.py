"""The one training loop, for every task."""

import concurrent.futures
import contextlib
import dataclasses
import importlib.metadata
import pathlib
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import psutil
from absl import logging

from sanorm_jax import optimizers, tasks
from sanorm_jax.data import pipeline, progress, run_data, terminal
from sanorm_jax.data.store import StoreError
from sanorm_jax.drawing import figures
from sanorm_jax.errors import ConfigError
from sanorm_jax.evaluate import Evaluator, check_evaluations
from sanorm_jax.metrics import measures
from sanorm_jax.run import compilation_cache, preemption, wandb_writer, writers
from sanorm_jax.run import workdir as workdir_lib
from sanorm_jax.run.checkpoints import Checkpoints
from sanorm_jax.run.devices import Devices
from sanorm_jax.run.init_from import init_from
from sanorm_jax.tasks.base import Task, check_positive
from sanorm_jax.train_step import TrainState, create_state, make_train_step


@dataclasses.dataclass
class Run:
    """A run in progress: what the phases of `train` share."""

    config: ml_collections.ConfigDict
    workdir: pathlib.Path
    devices: Devices
    task: Task
    state: Any  # on the devices
    checkpoints: Checkpoints | None  # the main host's, which alone writes
    writer: writers.Writer | None  # the same
    evaluator: Evaluator
    preemption: preemption.Preemption
    drawing: concurrent.futures.Executor  # figures, beside the training
    meta: dict[str, Any]
    wall_time_before_s: float
    started: float = dataclasses.field(default_factory=time.time)

    @property
    def wall_time_s(self) -> float:
        """Seconds in training over all restarts."""
        return self.wall_time_before_s + time.time() - self.started

    def save(self, step: int, *, wait: bool = False):
        """Saves a checkpoint from the main host; all hosts wait for it if they must."""
        if self.checkpoints:
            self.checkpoints.save(
                step,
                self.devices.get_state(self.state),
                self.meta | {"wall_time_s": self.wall_time_s},
                wait=wait,
            )
            self.preemption.saved(self.checkpoints.last_save_s)
        if wait:
            self.devices.hosts.together(lambda: None)

    def check_saved(self, step: int):
        """Raises `ConfigError` if the checkpoint of `step` is not on disk."""
        if self.checkpoints and step not in self.checkpoints.steps():
            raise ConfigError(
                f"{self.workdir}: the last checkpoint could not be saved; make room "
                "and start again"
            )

    def evaluate(self, step: int):
        """Evaluates all named settings and writes scalars and figures.

        Raises:
          Preempted: the run must stop; the evaluation is done after the restart.
        """
        scalars = {}
        split = self.config.evaluation_split
        for name, setting in self.config.evaluations.items():
            table = self.evaluator.run(
                self.state.variables,
                split,
                num_slots=setting.num_slots,
                num_iterations=setting.num_iterations,
                check=self.preemption.check,
            )
            values = self.task.summarize(table.columns())
            scalars |= {f"{name}/{metric}": v for metric, v in values.items()}
            logging.info("step %d, %s: %s", step, name, measures.brief(values))
            if self.config.num_figure_examples:
                self.devices.hosts.together(
                    lambda n=name, s=setting: self._draw(step, n, s)
                )
            scalars.pop(f"{name}/num_objects", None)
        if self.writer:
            self.writer.write_scalars(step, scalars)

    def _draw(self, step: int, name: str, setting: ml_collections.ConfigDict):
        if not self.writer:
            return
        variables = self.devices.get_state(self.state.variables)
        split = self.config.evaluation_split
        draw = self.evaluator.figure(variables, split, setting)
        self.drawing.submit(self._write_figure, step, name, draw)

    def _write_figure(self, step: int, name: str, draw: Callable):
        try:
            image = figures.to_array(draw())
            self.writer.write_images(step, {f"{name}/segmentation": image})
        except Exception:  # a thread's error is heard by nobody
            logging.exception("no figure of %s at step %d", name, step)


def _evaluated(workdir: pathlib.Path, config: ml_collections.ConfigDict, step: int):
    names = tuple(f"{name}/" for name in config.evaluations)
    lines = workdir_lib.read_lines(workdir / writers.METRICS_FILE)
    return not names or any(
        line["step"] == step and any(key.startswith(names) for key in line)
        for line in lines
    )


def is_finished(workdir: pathlib.Path, config: ml_collections.ConfigDict) -> bool:
    """Tells whether the run in `workdir` has taken and evaluated all its steps."""
    last = max(workdir_lib.saved_steps(workdir), default=-1)
    return last >= config.num_train_steps and _evaluated(workdir, config, last)


def _check(config: ml_collections.ConfigDict):
    for name in (
        "num_train_steps",
        "batch_size",
        "evaluation_batch_size",
        "log_every_steps",
        "checkpoint_every_steps",
        "evaluate_every_steps",
        "num_checkpoints",
    ):
        check_positive(f"config.{name}", config[name])
    check_evaluations(config)
    wandb_writer.check(config)
    for name in ("time_limit_h", "min_objects", "max_objects"):
        if config[name] < 0:
            raise ConfigError(f"config.{name}={config[name]}: must not be negative")


def _batches(run: Run, start_step: int) -> Iterator[dict[str, np.ndarray]]:
    config, dataset = run.config, run.task.dataset
    indices = pipeline.select(
        dataset,
        "train",
        min_objects=config.min_objects or None,
        max_objects=config.max_objects or None,
        num_examples=config.num_train_examples or None,
        num_sequences=config.num_train_sequences or None,
        data_seed=config.data_seed,
    )
    logging.info("training on %d examples", len(indices))
    return pipeline.train_batches(
        dataset,
        "train",
        indices,
        fields=run.task.train_fields,
        batch_size=config.batch_size,
        seed=config.seed,
        start_step=start_step,
        num_steps=config.num_train_steps - start_step,
        host_index=run.devices.hosts.index,
        num_hosts=run.devices.hosts.count,
    )


def train(config: ml_collections.ConfigDict, workdir: pathlib.Path) -> int:
    """Trains until the end, the time limit or a signal.

    Args:
      config: of the experiment.
      workdir: folder of the run; a run found there goes on where it stopped.

    Returns:
      the exit code: 0 finished, 124 stopped to be started again.

    Raises:
      ConfigError, StoreError: bad input; the message is one line for the user.
    """
    _check(config)
    # ---- Devices, data, model -------------------------------------------------
    compilation_cache.enable(config, workdir)
    devices = Devices(config.parallelism)
    devices.check_batch_size("batch_size", config.batch_size)
    devices.check_batch_size("evaluation_batch_size", config.evaluation_batch_size)
    # Asked before any data is opened, or even staged.
    devices.hosts.together(lambda: workdir_lib.check_config(workdir, config))
    if devices.hosts.on_main(lambda: is_finished(workdir, config)):
        logging.info("finished: %s has taken all its steps", workdir)
        return 0
    with contextlib.ExitStack() as stack:
        stop = stack.enter_context(preemption.Preemption(config.time_limit_h))
        stage = ("train", config.evaluation_split)
        dataset = devices.hosts.together(
            lambda: tasks.open_dataset(config, stage=stage)
        )
        task = tasks.create(config, dataset, devices.axis_name)
        tx, schedule = optimizers.create(config.optimizer)
        # ---- State: from a checkpoint, from another run, or new -----------------
        state = create_state(task, tx, config.seed)
        checkpoints = writer = None
        meta = {
            "fingerprints": dataset.fingerprints,
            "versions": {
                name: importlib.metadata.version(name)
                for name in ("jax", "flax", "optax", "orbax-checkpoint")
            },
        }
        wall_time_s = 0.0

        def start():
            nonlocal checkpoints, writer, state, wall_time_s
            if not devices.hosts.is_main:
                return
            stack.enter_context(workdir_lib.claim(workdir, config))
            stack.enter_context(terminal.LogFile(workdir))
            checkpoints = Checkpoints(
                workdir,
                num_checkpoints=config.num_checkpoints,
                keep_every_steps=config.keep_checkpoint_every_steps,
            )
            stack.callback(checkpoints.close)
            restored = checkpoints.restore(state)
            if restored is not None:
                state, saved = restored
                wall_time_s = saved["wall_time_s"]
                _check_fingerprints(workdir, saved, meta)
                checkpoints.drop_after(int(state.step))
            elif config.init_from:
                state = init_from(state, config, task)
            workdir_lib.note_start(workdir, int(state.step))
            size = dataset.settings["image_size"]
            run_data.note(
                *(workdir, size, dataset.feature_settings),
                *(dataset.projection, dataset.fields),
            )
            writer = writers.Writer(workdir, int(state.step), config)
            stack.callback(writer.close)

        devices.hosts.together(start)
        _describe(state)
        state = devices.hosts.broadcast(state)
        step = int(state.step)
        # ---- The run ------------------------------------------------------------
        run = Run(
            config=config,
            workdir=workdir,
            devices=devices,
            task=task,
            state=devices.put_state(state),
            checkpoints=checkpoints,
            writer=writer,
            evaluator=Evaluator(task, devices),
            preemption=stop,
            drawing=stack.enter_context(concurrent.futures.ThreadPoolExecutor(1)),
            meta=meta,
            wall_time_before_s=wall_time_s,
        )
        del state
        if step:
            logging.info("resuming at step %d", step)
        train_step = devices.compile_train_step(make_train_step(task, tx, schedule))
        try:
            return _loop(run, step, train_step)
        except preemption.Preempted as reason:
            logging.info("stopping: %s; start it again to go on", reason)
            return preemption.EXIT_CODE


def _describe(state: TrainState):
    """Tells the model's size; its parameters one by one to the log file."""
    # clu takes TensorFlow along: imported where a run begins, not with this module.
    from clu import parameter_overview

    terminal.note("\n" + parameter_overview.get_parameter_overview(state.params))
    count = sum(leaf.size for leaf in jax.tree.leaves(state.params))
    logging.info("a model of %s parameters", f"{count:,}")


def _check_fingerprints(workdir: pathlib.Path, saved: dict, meta: dict):
    if saved["fingerprints"] != meta["fingerprints"]:
        raise ConfigError(
            f"config.data_dir: the data differs from what the run in {workdir} was "
            "trained on so far; point it to the same data, or choose another --workdir"
        )


def _is_done(scalars: dict[str, jax.Array]) -> bool:
    """Tell whether the devices are done with a step, and wait for the next batch."""
    return all(scalar.is_ready() for scalar in scalars.values())


def _loop(run: Run, step: int, train_step: Callable) -> int:
    config = run.config
    evaluate_due = lambda s: (  # noqa: E731
        s % config.evaluate_every_steps == 0 or s == config.num_train_steps
    )
    if step and evaluate_due(step):
        done = run.devices.hosts.on_main(lambda: _evaluated(run.workdir, config, step))
        if not done:
            run.evaluate(step)
    batches = run.devices.prefetch(
        run.devices.hosts.together(lambda start=step: _batches(run, start))
    )
    take = lambda: next(batches, None)  # noqa: E731

    def check_and_take():
        run.preemption.check()
        return take()

    batch = run.devices.hosts.together(take)
    title = f"training {run.workdir.name}"
    with progress.Progress(title, config.num_train_steps, "steps", step) as bar:
        step = _steps(run, step, train_step, batch, check_and_take, evaluate_due, bar)
    run.save(step, wait=True)  # again, if the disk was full
    run.devices.hosts.together(lambda: run.check_saved(step))
    logging.info("finished: %d steps in %.0f s", step, run.wall_time_s)
    return 0


def _steps(run: Run, step: int, train_step, batch, take, evaluate_due, bar) -> int:
    """Takes all steps that are left and returns the last one's number."""
    config, note = run.config, ""
    waited_s, since, first = 0.0, time.monotonic(), step
    to_first_step = None
    while step < config.num_train_steps:
        run.state, scalars = train_step(run.state, batch)
        step += 1
        bar.advance(1, note)
        if to_first_step is None:
            to_first_step = _note_first_step(scalars)
            waited_s, since, first = 0.0, time.monotonic(), step
        last = step == config.num_train_steps
        # Hosts agree here whether they go on, while their devices work on the step.
        before, reason = time.monotonic(), None
        try:
            batch = run.devices.hosts.together(take)
        except (preemption.Preempted, ConfigError, StoreError) as error:
            reason = error
        if _is_done(scalars):
            waited_s += time.monotonic() - before
        log_due = step % config.log_every_steps == 0 or last
        save_due = step % config.checkpoint_every_steps == 0 or last
        if log_due or save_due or evaluate_due(step) or reason:
            scalars = jax.device_get(scalars)
            if scalars.pop("failed"):
                _stop_at_nan(run)
        if log_due and run.writer:
            elapsed = time.monotonic() - since
            scalars |= {"time/wall_s": run.wall_time_s, **to_first_step}
            if step > first:  # the first step, which compiles, is no rate
                scalars |= {
                    "time/steps_per_s": (step - first) / elapsed,
                    "time/data_wait_share": waited_s / elapsed,
                }
            run.writer.write_scalars(step, scalars)
            note, to_first_step = f"loss {scalars['loss']:.4g}", {}
            waited_s, since, first = 0.0, time.monotonic(), step
        if save_due or evaluate_due(step) or reason:
            run.save(step, wait=last or reason is not None)
        if reason:
            raise reason
        if evaluate_due(step):
            run.evaluate(step)
            since, first, waited_s = time.monotonic(), step, 0.0
    return step


def _note_first_step(scalars: Any) -> dict[str, float]:
    jax.block_until_ready(scalars)
    seconds = time.time() - psutil.Process().create_time()
    logging.info("the first step was done %.1f s after the process began", seconds)
    return {"time/to_first_step_s": seconds}


def _stop_at_nan(run: Run):
    step = int(run.devices.get_state(run.state.step))
    run.state = run.state.replace(failed=jax.tree.map(jnp.zeros_like, run.state.failed))
    run.save(step, wait=True)
    raise ConfigError(
        f"loss or gradient is not finite at step {step + 1}; the checkpoint of step "
        f"{step} was saved; lower config.optimizer.learning_rate, or look at the data"
    )
