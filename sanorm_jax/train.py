"""The training loop, shared by all tasks."""

import contextlib
import functools
import pathlib
from collections.abc import Callable, Iterator
from concurrent import futures

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
from absl import logging

from sanorm_jax import optimizers, tasks
from sanorm_jax.core import fields, progress, published
from sanorm_jax.core.errors import UserError
from sanorm_jax.data import pipeline
from sanorm_jax.drawing import figures
from sanorm_jax.evaluate import Evaluator, evaluations
from sanorm_jax.metrics import measures
from sanorm_jax.run.distribution import preemption
from sanorm_jax.run.distribution.devices import Devices
from sanorm_jax.run.folder import compilation_cache, training_run, wandb_writer, writers
from sanorm_jax.run.folder import workdir as workdir_lib
from sanorm_jax.run.folder.rates import Rates
from sanorm_jax.run.folder.training_run import TrainingRun
from sanorm_jax.train_step import create_state, make_train_step


def train(config: ml_collections.ConfigDict, workdir: pathlib.Path) -> int:
    """Train until the last step, the time limit or a signal; resume an existing run.

    Returns:
      The exit code: 0 if finished, 124 if stopped before the last step.
    """
    fields.check(config)
    evaluations(config)  # Check them before any work.
    wandb_writer.check(config)
    if published.is_published(workdir):
        raise UserError(
            f"--workdir={workdir}: is a published model, which is read-only; choose "
            "another --workdir, and set --config.init_from to train from the model"
        )

    # ---- Devices ----------------------------------------------------------------
    compilation_cache.enable(config, workdir)
    devices = Devices(config.parallelism)
    for name in ("batch_size", "evaluation_batch_size"):
        devices.check_batch_size(name, config[name])
    hosts = devices.hosts
    # Fail, or finish, before opening any data.
    with hosts.agree():
        workdir_lib.check_config(workdir, config)
    if hosts.on_main(lambda: training_run.is_finished(workdir, config)):
        logging.info("finished: %s has taken all its steps", workdir)
        return 0

    with contextlib.ExitStack() as stack:
        stop = stack.enter_context(preemption.Preemption(config.time_limit_h))

        # ---- Data, model and optimizer ------------------------------------------
        with hosts.agree():
            dataset = tasks.open_dataset(config)
        hosts.check_same({"config.data_dir": dataset.fingerprints})
        task = tasks.create(config, dataset, devices.axis_name)
        tx, schedule = optimizers.create(config.optimizer)
        train_step = devices.compile_train_step(make_train_step(task, tx, schedule))
        evaluator = Evaluator(task, devices)
        with hosts.agree():
            evaluator.check()

        # ---- State and outputs --------------------------------------------------
        new_state = functools.partial(create_state, task, tx, config.seed)
        run = stack.enter_context(
            training_run.open_run(config, workdir, devices, task, new_state, stop)
        )
        # A thread draws figures while training continues.
        drawing = stack.enter_context(futures.ThreadPoolExecutor(1))
        evaluate = functools.partial(_evaluate, run, evaluator, drawing)

        # ---- Steps --------------------------------------------------------------
        try:
            _take_steps(run, train_step, evaluate)
        except preemption.Preempted as reason:
            logging.info("stopping: %s; run the same command to resume", reason)
            return preemption.EXIT_CODE
    return 0


def _take_steps(run: TrainingRun, train_step: Callable, evaluate: Callable):
    """Take the remaining steps; log, save and evaluate when due."""
    config, hosts, step = run.config, run.devices.hosts, run.step
    # An earlier start may have saved this step without evaluating it.
    if (
        step
        and run.is_due("evaluate_every_steps", step)
        and not hosts.on_main(
            lambda: training_run.is_evaluated(run.workdir, config, step)
        )
    ):
        evaluate(step)

    with hosts.agree():
        batches = run.devices.prefetch(_batches(run))
        # No check for requests to stop here, so that each start takes at least one
        # step.
        batch = next(batches, None)
    rates, note, reason = Rates(step), "", None
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
                try:
                    with hosts.agree():  # All hosts stop at the same step.
                        run.preemption.check()
                        batch = next(batches, None)
                except (preemption.Preempted, UserError) as error:
                    reason = error

            log_due, save_due, evaluate_due = (
                run.is_due(f"{what}_every_steps", step)
                for what in ("log", "checkpoint", "evaluate")
            )
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
                is_last = step == config.num_train_steps
                run.save(step, wait=is_last or reason is not None)
            if reason:
                raise reason
            if evaluate_due:
                evaluate(step)
                rates.restart(step)

    run.save(step, wait=True)  # Try again, in case the disk was full.
    with hosts.agree():
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


def _stop_at_nan(run: TrainingRun):
    """Save the state before the failed step and raise `UserError`."""
    step = int(run.devices.get_state(run.state.step))
    run.state = run.state.replace(failed=jax.tree.map(jnp.zeros_like, run.state.failed))
    run.save(step, wait=True)
    raise UserError(
        f"loss or gradient: not finite at step {step + 1}; the checkpoint of step "
        f"{step} is saved; lower config.optimizer.learning_rate, or check the data"
    )


def _evaluate(
    run: TrainingRun, evaluator: Evaluator, drawing: futures.Executor, step: int
):
    """Evaluate all named settings, and write scalars and figures.

    Raises:
      Preempted: The run must stop. The next start evaluates the step.
    """
    config, scalars = run.config, {}
    for name, setting in evaluations(config).items():
        table = evaluator.run(
            run.state.variables,
            config.evaluation_split,
            setting,
            check=run.preemption.check,
        )
        values = run.task.summarize(table.columns())
        logging.info("step %d, %s: %s", step, name, measures.brief(values))
        scalars |= {f"{name}/{metric}": value for metric, value in values.items()}
        if config.num_figure_examples:
            with run.devices.hosts.agree():
                if run.writer:
                    variables = run.devices.get_state(run.state.variables)
                    draw, _ = evaluator.figure(
                        variables, config.evaluation_split, setting
                    )
                    drawing.submit(_write_figure, run.writer, step, name, draw)
    if run.writer:
        run.writer.write_scalars(step, scalars)


def _write_figure(writer: writers.Writer, step: int, name: str, draw: Callable):
    try:
        images = {f"{name}/segmentation": figures.to_array(draw())}
        writer.write_images(step, images)
    except Exception:  # The executor would hide it.
        logging.exception("figure of %s at step %d not written", name, step)
