"""Evaluation over full splits: a grid of slots, iterations and numbers of objects."""

import functools
import itertools
import pathlib
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import jax
import ml_collections
import numpy as np
from absl import logging

from sanorm_jax import metrics, tasks
from sanorm_jax.core import progress, run_data
from sanorm_jax.core.errors import UserError
from sanorm_jax.data import pipeline
from sanorm_jax.drawing import figures, predictions
from sanorm_jax.metrics import measures
from sanorm_jax.run.distribution.devices import Devices
from sanorm_jax.run.folder import compilation_cache, results
from sanorm_jax.run.folder import workdir as workdir_lib
from sanorm_jax.run.parameters.init_from import load, load_variables
from sanorm_jax.tasks.base import Task

DIRECTORY = "evaluations"


class Evaluator:
    """Runs a task's evaluation over whole splits; compiles once a setting.

    Initial slots depend on `config.evaluation_seed` and on the example alone.

    Args:
      task: what to evaluate.
      devices: where.
    """

    def __init__(self, task: Task, devices: Devices):
        self._task = task
        self._devices = devices
        self._config = task.config
        self._compiled = {}

    def _function(self, kind: str, num_slots: int, num_iterations: int) -> Callable:
        key = (kind, num_slots, num_iterations)
        if key not in self._compiled:
            method = getattr(self._task, kind)
            rng = jax.random.PRNGKey(self._config.evaluation_seed)

            def function(variables, batch):
                return method(variables, batch, rng, num_slots, num_iterations)

            self._compiled[key] = self._devices.compile_evaluation(function)
        return self._compiled[key]

    def select(self, split: str, max_objects: int | None = None) -> np.ndarray:
        """Return the indices of `split` that the config leaves.

        Args:
          split: name of the split.
          max_objects: most objects, instead of `config.evaluation_max_objects`.
        """
        config = self._config
        return pipeline.select(
            self._task.dataset,
            split,
            min_objects=config.evaluation_min_objects or None,
            max_objects=max_objects or config.evaluation_max_objects or None,
            num_examples=config.num_validation_examples or None,
            num_sequences=config.num_validation_sequences or None,
            data_seed=config.data_seed,
        )

    def check(self):
        """Check all that the named evaluations of the config need, before any step.

        Nothing is computed: the evaluation is traced for the shapes of its input.

        Raises:
          UserError: no such split, data without what is compared, or a field that
            the evaluation cannot work with.
          UserError: the config leaves no example of the split.
        """
        config, task = self._config, self._task
        if not len(config.evaluations):
            return
        split, dataset = config.evaluation_split, task.dataset
        if split not in dataset.splits:
            raise UserError(
                f"config.evaluation_split={split}: the data has no split {split}; it "
                f"has {', '.join(dataset.splits)}"
            )
        for field in task.evaluation_fields:
            if field not in dataset.fields:
                raise UserError(
                    f"config.dataset={config.dataset}: has no {field}, which "
                    'evaluations need; train without them, --config.evaluations="{}"'
                )
        self.select(split)
        output_shapes(task, "evaluate", config.evaluations.values())

    def run(
        self,
        variables: Any,
        split: str,
        *,
        num_slots: int,
        num_iterations: int,
        indices: np.ndarray | None = None,
        check: Callable[[], None] = lambda: None,
        advance: Callable[[int], None] = lambda count: None,
    ) -> metrics.Table:
        """Return the measures of every example of a split, each counted once.

        Args:
          variables: of the model, on the devices.
          split: name of the split.
          num_slots: slots to evaluate with.
          num_iterations: attention iterations to evaluate with.
          indices: examples to evaluate, default all that the config leaves.
          check: called between batches; may raise to give up.
          advance: called with the number of examples that are done.
        """
        devices = self._devices
        function = self._function("evaluate", num_slots, num_iterations)
        batches = pipeline.eval_batches(
            self._task.dataset,
            split,
            self.select(split) if indices is None else indices,
            fields=self._task.evaluation_fields,
            batch_size=self._config.evaluation_batch_size,
            host_index=devices.hosts.index,
            num_hosts=devices.hosts.count,
        )
        table = metrics.Table()
        while True:
            with devices.hosts.agree():
                check()
                batch = next(batches, None)
            if batch is None:
                return table
            index, mask = batch["index"], batch.pop("mask")
            values = devices.get_batch(function(variables, devices.put_batch(batch)))
            table.add(*devices.hosts.gather((index, mask, values)))
            advance(int(mask.sum()) * devices.hosts.count)

    def predict(
        self, variables: Any, split: str, indices: np.ndarray, setting: Any
    ) -> dict[str, np.ndarray]:
        """Return the task's predictions for a few examples, on one device."""
        key = ("predict", setting.num_slots, setting.num_iterations)
        if key not in self._compiled:
            rng = jax.random.PRNGKey(self._config.evaluation_seed)
            self._compiled[key] = jax.jit(
                lambda variables, batch: self._task.predict(
                    variables, batch, rng, setting.num_slots, setting.num_iterations
                )
            )
        field = self._task.input_field
        batch = {
            field: self._task.dataset.read(split, field, indices),
            "index": np.asarray(indices, np.int32),
        }
        return jax.device_get(self._compiled[key](variables, batch))

    def figure(self, variables: Any, split: str, setting: Any) -> Callable:
        """Return a function that draws examples and what is predicted for them.

        Examples are read and predicted at once; drawing can be left to another thread.

        Args:
          variables: of the model, as `Devices.get_state` returns them.
          split: name of the split.
          setting: has `num_slots` and `num_iterations`.
        """
        count = self._config.num_figure_examples
        indices = self.select(split)[:count]
        predicted = self.predict(variables, split, indices, setting)
        drawing = predictions.choose(predicted, self._task.dataset)
        examples = drawing.read(self._task.dataset, split, indices)
        return functools.partial(drawing.draw, examples, {"predicted": predicted})


def output_shapes(
    task: Task, method: str, settings: Iterable[Any]
) -> list[dict[str, jax.ShapeDtypeStruct]]:
    """Return what a method of a task returns for one example; nothing is computed.

    Args:
      task: the task.
      method: `evaluate` or `predict`.
      settings: each has `num_slots` and `num_iterations`.

    Raises:
      UserError: a field that the method cannot work with.
    """
    batch = {"index": jax.ShapeDtypeStruct((1,), np.int32)}
    for field in task.evaluation_fields:
        shape, dtype = task.dataset.fields[field]
        batch[field] = jax.ShapeDtypeStruct((1, *shape), dtype)
    rng = jax.random.PRNGKey(0)
    variables = jax.eval_shape(task.init, rng)
    return [
        jax.eval_shape(
            functools.partial(
                getattr(task, method),
                rng=rng,
                num_slots=setting.num_slots,
                num_iterations=setting.num_iterations,
            ),
            variables,
            batch,
        )
        for setting in settings
    ]


def _rows(table: metrics.Table, task: Task, **where) -> list[dict[str, Any]]:
    """Return a row of all examples, and one for each number of objects."""
    columns = table.columns()
    rows = [_row(columns, task, num_objects="all", **where)]
    if "num_objects" in columns:
        for count, part in table.by("num_objects").items():
            rows.append(_row(part, task, num_objects=count, **where))
    return rows


def _row(columns: dict[str, np.ndarray], task: Task, **where) -> dict[str, Any]:
    scalars = task.summarize(columns)
    scalars.pop("num_objects", None)
    return where | metrics.count(columns) | scalars


def evaluate(
    config: ml_collections.ConfigDict,
    workdir: pathlib.Path,
    *,
    split: str = "",
    num_slots: Sequence[int] = (),
    num_iterations: Sequence[int] = (),
    max_objects: Sequence[int] = (),
    step: int | None = None,
) -> pathlib.Path:
    """Evaluate a finished or running run and write JSON, CSV and figures.

    Args:
      config: the run's config.
      workdir: folder of the run; only `evaluations/` in it is written.
      split: default `config.evaluation_split`.
      num_slots: slot counts; with none, and no iterations, `config.evaluations`.
      num_iterations: iteration counts, default as in training.
      max_objects: evaluate on images of at most so many objects, for each; default
        all images.
      step: of the checkpoint, default the newest.

    Returns:
      the folder written.

    Raises:
      UserError: no checkpoint, or an option out of range.
    """
    split = split or config.evaluation_split
    workdir_lib.check_writable(workdir / DIRECTORY)
    compilation_cache.enable(config, workdir)
    devices = Devices(config.parallelism)
    devices.check_batch_size("evaluation_batch_size", config.evaluation_batch_size)
    dataset = tasks.open_dataset(config)
    run_data.check_projection(workdir, dataset.feature_settings)
    task = tasks.create(config, dataset)
    settings = settings_grid(config, num_slots, num_iterations)
    evaluator = Evaluator(task, devices)
    variables, step = _variables(task, workdir, step)
    # The newest checkpoint of a run in training is another one a moment later.
    devices.hosts.check_same({"config.data_dir": dataset.fingerprints, "--step": step})
    on_devices = devices.put_state(variables)
    directory = workdir / DIRECTORY / f"{split}_step_{step}"
    workdir_lib.check_writable(directory)

    rows = []
    jobs = [
        (setting, limit, evaluator.select(split, limit))
        for setting, limit in itertools.product(settings, max_objects or (None,))
    ]
    total = sum(len(indices) for _, _, indices in jobs)
    with progress.Progress(f"evaluating {workdir}", total, "images") as bar:
        for setting, limit, indices in jobs:
            counts = {
                "num_slots": setting.num_slots,
                "num_iterations": setting.num_iterations,
            }
            table = evaluator.run(
                on_devices, split, **counts, indices=indices, advance=bar.advance
            )
            found = _rows(
                table,
                task,
                split=split,
                step=step,
                **counts,
                max_objects=limit or "all",
                resolution=config.evaluation_resolution,
            )
            logging.info(
                "%d slots, %d iterations, %s, %d images: %s",
                setting.num_slots,
                setting.num_iterations,
                f"at most {limit} objects" if limit else "all",
                len(indices),
                measures.brief(found[0]),
            )
            rows += found
    if devices.hosts.is_main:
        directory.mkdir(parents=True, exist_ok=True)
        rows = results.merge(directory, rows, config, dataset.fingerprints)
        for setting in settings if config.num_figure_examples else ():
            figure = evaluator.figure(variables, split, setting)()
            name = f"slots_{setting.num_slots}_iterations_{setting.num_iterations}"
            figures.save(figure, directory / f"segmentation_{name}.png")
        _write_sweep(directory, rows)
    return directory


def _variables(task: Task, workdir: pathlib.Path, step: int | None):
    has_checkpoint = (workdir / workdir_lib.CHECKPOINTS).exists()
    if task.config.init_from and not has_checkpoint and step is None:
        # Without a run here, what training would start from is evaluated.
        return load(pathlib.Path(task.config.init_from), task), 0
    return load_variables(task, workdir, step)


def settings_grid(
    config: ml_collections.ConfigDict,
    num_slots: Sequence[int],
    num_iterations: Sequence[int],
) -> list[ml_collections.ConfigDict]:
    """Return each `num_slots` with each `num_iterations`.

    Where one of them is empty, it is as in training; where both are, these are
    `config.evaluations`.

    Raises:
      UserError: a number is not above 0.
    """
    if not num_slots and not num_iterations:
        check_evaluations(config)
        return list(config.evaluations.values())
    for name, values in (("num_slots", num_slots), ("num_iterations", num_iterations)):
        for value in values:
            if value <= 0:
                raise UserError(f"--{name}={value}: must be above 0")
    return [
        ml_collections.ConfigDict({"num_slots": slots, "num_iterations": iterations})
        for slots, iterations in itertools.product(
            num_slots or (config.num_slots,), num_iterations or (config.num_iterations,)
        )
    ]


def check_evaluations(config: ml_collections.ConfigDict):
    """Raise `UserError` unless every named evaluation has its two numbers."""
    for name, setting in config.evaluations.items():
        for field in ("num_slots", "num_iterations"):
            if not hasattr(setting, "get") or setting.get(field) is None:
                raise UserError(
                    f"config.evaluations.{name}: has no {field}; give num_slots and "
                    "num_iterations"
                )


def _write_sweep(directory: pathlib.Path, rows: list[dict[str, Any]]):
    """Write FG-ARI against the number of slots, if there are several."""
    whole = [row for row in rows if row["num_objects"] == "all"]
    several = len({row["num_iterations"] for row in whole}) > 1
    lines = {}
    for row in whole:
        limit = row["max_objects"]
        where = "" if limit == "all" else f", at most {limit} objects"
        where += f", {row['num_iterations']} iterations" if several else ""
        for name in row:
            if "fg_ari" in name and row[name] is not None:
                points = lines.setdefault(f"{name}{where}", {})
                points.setdefault(row["num_slots"], []).append(row[name])
    if len({row["num_slots"] for row in whole}) > 1 and lines:
        figure = figures.sweep_plot(lines, xlabel="number of slots", ylabel="FG-ARI")
        figures.save(figure, directory / "fg_ari_by_num_slots.png")
