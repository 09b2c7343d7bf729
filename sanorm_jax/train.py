"""The one training loop, for every task."""

import concurrent.futures
import contextlib
import functools
import pathlib
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
from absl import logging

from sanorm_jax import optimizers, tasks
from sanorm_jax.core import fields, progress
from sanorm_jax.core.errors import UserError
from sanorm_jax.data import pipeline
from sanorm_jax.drawing import figures
from sanorm_jax.evaluate import Evaluator, check_evaluations
from sanorm_jax.metrics import measures
from sanorm_jax.run.distribution import preemption
from sanorm_jax.run.distribution.devices import Devices
from sanorm_jax.run.folder import compilation_cache, wandb_writer
from sanorm_jax.run.folder import workdir as workdir_lib
from sanorm_jax.run.folder.rates import Rates
from sanorm_jax.run.folder.training_run import (
    TrainingRun,
    is_evaluated,
    is_finished,
    open_run,
)
from sanorm_jax.train_step import create_state, make_train_step


def train(config: ml_collections.ConfigDict, workdir: pathlib.Path) -> int:
    """Train until the end, the time limit or a signal.

    Args:
      config: of the experiment.
      workdir: folder of the run; a run found there goes on where it stopped.

    Returns:
      the exit code: 0 finished, 124 stopped to be started again.

    Raises:
      UserError: bad input; the message is one line for the user.
    """
    _check(config)
    # ---- Devices ----------------------------------------------------------------
    compilation_cache.enable(config, workdir)
    devices = Devices(config.parallelism)
    devices.check_batch_size("batch_size", config.batch_size)
    devices.check_batch_size("evaluation_batch_size", config.evaluation_batch_size)
    hosts = devices.hosts
    # Asked before any data is opened.
    with hosts.agree():
        workdir_lib.check_config(workdir, config)
    if hosts.on_main(lambda: is_finished(workdir, config)):
        logging.info("finished: %s has taken all its steps", workdir)
        return 0
    with contextlib.ExitStack() as stack:
        stop = stack.enter_context(preemption.Preemption(config.time_limit_h))
        # ---- Data, model, optimizer -----------------------------------------------
        with hosts.agree():
            dataset = tasks.open_dataset(config)
        hosts.check_same({"config.data_dir": dataset.fingerprints})
        task = tasks.create(config, dataset, devices.axis_name)
        tx, schedule = optimizers.create(config.optimizer)
        new = functools.partial(create_state, task, tx, config.seed)
        # ---- The run --------------------------------------------------------------
        evaluator = Evaluator(task, devices)
        with hosts.agree():
            evaluator.check()
        run = stack.enter_context(open_run(config, workdir, devices, task, new, stop))
        drawing = stack.enter_context(concurrent.futures.ThreadPoolExecutor(1))
        evaluation = Evaluation(run, evaluator, drawing)
        train_step = devices.compile_train_step(make_train_step(task, tx, schedule))
        try:
            _loop(run, train_step, evaluation)
        except preemption.Preempted as reason:
            logging.info("stopping: %s; start it again to go on", reason)
            return preemption.EXIT_CODE
        return 0


def _check(config: ml_collections.ConfigDict):
    fields.check(config)
    check_evaluations(config)
    wandb_writer.check(config)


def _loop(run: TrainingRun, train_step: Callable, evaluation: "Evaluation"):
    """Take all steps that are left, saves, evaluates and tells on the way."""
    config, step = run.config, run.step
    if step and run.is_due("evaluate_every_steps", step):
        evaluation.make_up(step)
    with run.devices.hosts.agree():
        batches = run.devices.prefetch(_batches(run))
        # Without asking whether to stop: each start takes at least one step.
        batch = next(batches, None)
    rates, note = Rates(step), ""
    title = f"training {run.workdir.name}"
    with progress.Progress(title, config.num_train_steps, "steps", step) as bar:
        while step < config.num_train_steps:
            with (
                jax.profiler.StepTraceAnnotation("train", step_num=step),
                # State and batch are on the devices already.
                jax.transfer_guard_host_to_device("disallow"),
            ):
                run.state, scalars = train_step(run.state, batch)
            step += 1
            bar.advance(1, note)
            rates.took_step(step, scalars)
            with rates.waiting(scalars):
                batch, reason = _next_batch(run, batches)
            log_due = run.is_due("log_every_steps", step)
            save_due = run.is_due("checkpoint_every_steps", step)
            evaluate_due = run.is_due("evaluate_every_steps", step)
            if log_due or save_due or evaluate_due or reason:
                scalars = jax.device_get(scalars)
                if scalars.pop("failed"):
                    _stop_at_nan(run)
            if log_due and run.writer:
                times = {"time/wall_s": run.wall_time_s, **rates.scalars(step)}
                run.writer.write_scalars(step, scalars | times)
                rates.restart(step)
                note = f"loss {scalars['loss']:.4g}"
            if save_due or evaluate_due or reason:
                last = step == config.num_train_steps
                run.save(step, wait=last or reason is not None)
            if reason:
                raise reason
            if evaluate_due:
                evaluation.run(step)
                rates.restart(step)
    run.save(step, wait=True)  # again, if the disk was full
    with run.devices.hosts.agree():
        run.check_saved(step)
    logging.info("finished: %d steps in %.0f s", step, run.wall_time_s)


def _batches(run: TrainingRun) -> Iterator[dict[str, np.ndarray]]:
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
        start_step=run.step,
        num_steps=config.num_train_steps - run.step,
        host_index=run.devices.hosts.index,
        num_hosts=run.devices.hosts.count,
    )


def _next_batch(run: TrainingRun, batches: Iterator) -> tuple[Any, Exception | None]:
    """Return the next batch, or why the run must stop; all hosts agree on it."""
    try:
        with run.devices.hosts.agree():
            run.preemption.check()
            return next(batches, None), None
    except (preemption.Preempted, UserError) as reason:
        return None, reason


def _stop_at_nan(run: TrainingRun):
    step = int(run.devices.get_state(run.state.step))
    run.state = run.state.replace(failed=jax.tree.map(jnp.zeros_like, run.state.failed))
    run.save(step, wait=True)
    raise UserError(
        f"loss or gradient is not finite at step {step + 1}; the checkpoint of step "
        f"{step} was saved; lower config.optimizer.learning_rate, or look at the data"
    )


class Evaluation:
    """Evaluates the named settings of a run in training.

    Args:
      run: the run.
      evaluator: evaluates its task.
      drawing: where figures are drawn, beside the training.
    """

    def __init__(
        self,
        run: TrainingRun,
        evaluator: Evaluator,
        drawing: concurrent.futures.Executor,
    ):
        self._run = run
        self._evaluator = evaluator
        self._drawing = drawing

    def make_up(self, step: int):
        """Evaluate a step that an earlier start saved and did not evaluate."""
        run = self._run
        if not run.devices.hosts.on_main(
            lambda: is_evaluated(run.workdir, run.config, step)
        ):
            self.run(step)

    def run(self, step: int):
        """Evaluate all named settings and write scalars and figures.

        Raises:
          Preempted: the run must stop; the evaluation is done after the restart.
        """
        run, scalars = self._run, {}
        for name, setting in run.config.evaluations.items():
            table = self._evaluator.run(
                run.state.variables,
                run.config.evaluation_split,
                num_slots=setting.num_slots,
                num_iterations=setting.num_iterations,
                check=run.preemption.check,
            )
            values = run.task.summarize(table.columns())
            scalars |= {f"{name}/{metric}": v for metric, v in values.items()}
            logging.info("step %d, %s: %s", step, name, measures.brief(values))
            if run.config.num_figure_examples:
                with run.devices.hosts.agree():
                    self._draw(step, name, setting)
            scalars.pop(f"{name}/num_objects", None)
        if run.writer:
            run.writer.write_scalars(step, scalars)

    def _draw(self, step: int, name: str, setting: ml_collections.ConfigDict):
        run = self._run
        if not run.writer:
            return
        variables = run.devices.get_state(run.state.variables)
        split = run.config.evaluation_split
        draw, _ = self._evaluator.figure(variables, split, setting)
        self._drawing.submit(self._write_figure, step, name, draw)

    def _write_figure(self, step: int, name: str, draw: Callable):
        try:
            image = figures.to_array(draw())
            self._run.writer.write_images(step, {f"{name}/segmentation": image})
        except Exception:  # a thread's error is heard by nobody
            logging.exception("no figure of %s at step %d", name, step)
