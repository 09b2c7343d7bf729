"""Evaluation over full splits, for a grid of numbers of slots, iterations, objects."""

import functools
import itertools
import pathlib
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import jax
import ml_collections
import numpy as np
from absl import logging
from matplotlib.figure import Figure

from sanorm_jax import baselines, metrics, tasks, trained
from sanorm_jax.core import progress, published
from sanorm_jax.core.errors import UserError
from sanorm_jax.data import pipeline
from sanorm_jax.drawing import figures, predictions
from sanorm_jax.metrics import measures
from sanorm_jax.models import merging
from sanorm_jax.run.distribution.devices import Devices
from sanorm_jax.run.folder import compilation_cache, results
from sanorm_jax.run.folder import workdir as workdir_lib
from sanorm_jax.tasks.base import Task

DIRECTORY = "evaluations"


class Evaluator:
    """Evaluator of a task over full splits.

    The initial slots of an example depend only on `config.evaluation_seed` and its
    index in the split.

    Args:
      task: Task to evaluate.
      devices: Devices that share each batch.
    """

    def __init__(self, task: Task, devices: Devices):
        self._task = task
        self._devices = devices
        self._config = task.config
        self._compiled = trained.Compiled(task, devices.compile_evaluation)
        self._on_one_device = trained.Compiled(task)
        self._baselines = functools.cache(self._compile_baselines)

    def select(self, split: str, max_objects: int | None = None) -> np.ndarray:
        """Return the indices `[n]` of the examples that the config selects.

        Args:
          split: Name of the split.
          max_objects: Maximum number of objects; `config.evaluation_max_objects` if
            None.
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
        """Check everything that `config.evaluations` needs, without computing it.

        The evaluation is traced with the shapes of its input.

        Raises:
          UserError: The data lacks the split or a field, the config selects no
            example, or the evaluation does not work with a field of the config.
        """
        config, task = self._config, self._task
        if not len(config.evaluations):
            return
        split, dataset = config.evaluation_split, task.dataset
        if split not in dataset.splits:
            raise UserError(
                f"config.evaluation_split={split}: not a split of the data; choose "
                f"from {', '.join(dataset.splits)}"
            )
        for field in task.evaluation_fields:
            if field not in dataset.fields:
                raise UserError(
                    f"config.dataset={config.dataset}: has no {field}, which "
                    "evaluation needs; train without evaluation by "
                    '--config.evaluations="{}"'
                )
        self.select(split)
        num_devices = self._devices.num_devices * self._devices.hosts.count
        batch_size = config.evaluation_batch_size // num_devices
        _trace(task, config.evaluations.values(), batch_size)

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
        """Return the measures of each example of a split.

        Args:
          variables: Variables of the model, on the devices.
          split: Name of the split.
          num_slots: Number of slots.
          num_iterations: Number of iterations of Slot Attention.
          indices: Examples to evaluate; those of `select` if None.
          check: Function called between batches; may raise to stop the evaluation.
          advance: Function called after each batch with its number of examples.
        """
        evaluate = functools.partial(
            self._compiled,
            "evaluate",
            variables,
            num_slots=num_slots,
            num_iterations=num_iterations,
            seed=self._config.evaluation_seed,
        )
        return self._collect(
            evaluate,
            split,
            self.select(split) if indices is None else indices,
            self._task.evaluation_fields,
            self._config.evaluation_batch_size,
            check,
            advance,
        )

    def run_baselines(
        self,
        split: str,
        *,
        num_slots: Sequence[int],
        indices: np.ndarray,
        check: Callable[[], None] = lambda: None,
        advance: Callable[[int], None] = lambda count: None,
    ) -> metrics.Table:
        """Return the measures of all baselines for each example, `[n, P]` columns.

        Args:
          split: Name of the split.
          num_slots: Numbers of blocks.
          indices: Examples to evaluate.
          check: Function as in `run`.
          advance: Function as in `run`.
        """
        task = self._task
        function = self._baselines(tuple(num_slots))
        values = baselines.values_per_example(task)
        return self._collect(
            lambda batch: function((), batch, jax.random.PRNGKey(0)),
            split,
            indices,
            baselines.fields(task),
            trained.batch_size(self._config, self._devices, values),
            check,
            advance,
        )

    def _compile_baselines(self, num_slots: tuple[int, ...]) -> Callable:
        return self._devices.compile_evaluation(
            lambda variables, batch, rng: baselines.evaluate(
                self._task, num_slots, batch
            )
        )

    def _collect(
        self,
        function: Callable[[Any], dict[str, jax.Array]],
        split: str,
        indices: np.ndarray,
        fields: Sequence[str],
        batch_size: int,
        check: Callable[[], None],
        advance: Callable[[int], None],
    ) -> metrics.Table:
        """Return the table of a function's results for all examples of a split."""
        devices = self._devices
        batches = pipeline.eval_batches(
            self._task.dataset,
            split,
            indices,
            fields=fields,
            batch_size=batch_size,
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
            values = devices.get_batch(function(devices.put_batch(batch)))
            table.add(*devices.hosts.gather((index, mask, values)))
            advance(int(mask.sum()) * devices.hosts.count)

    def predict(
        self, variables: Any, split: str, indices: np.ndarray, setting: Any
    ) -> dict[str, np.ndarray]:
        """Return the task's predictions for a few examples, computed on one device.

        Args:
          variables: Variables of the model, as `Devices.get_state` returns them.
          split: Name of the split.
          indices: Indices `[n]` of the examples.
          setting: Setting with `num_slots` and `num_iterations`.
        """
        field = self._task.input_field
        batch = {
            field: self._task.dataset.read(split, field, indices),
            "index": np.asarray(indices, np.int32),
        }
        return jax.device_get(
            self._on_one_device(
                "predict",
                variables,
                batch,
                num_slots=setting.num_slots,
                num_iterations=setting.num_iterations,
                seed=self._config.evaluation_seed,
            )
        )

    def figure(
        self, variables: Any, split: str, setting: Any
    ) -> tuple[Callable[[], Figure], str]:
        """Return a function that draws predictions for a few examples, and a caption.

        The predictions are computed before this returns. The function may be called in
        another thread.

        Args:
          variables: Variables of the model, as `Devices.get_state` returns them.
          split: Name of the split.
          setting: Setting with `num_slots` and `num_iterations`.
        """
        dataset = self._task.dataset
        indices = self.select(split)[: self._config.num_figure_examples]
        predicted = self.predict(variables, split, indices, setting)
        drawing = predictions.choose(predicted, dataset.fields)
        examples = drawing.read(dataset, split, indices)
        draw = functools.partial(drawing.draw, examples, {"predicted": predicted})
        return draw, f"{drawing.caption}. {drawing.details}".strip()


def _trace(task: Task, settings: Iterable[Any], batch_size: int):
    """Trace the evaluation of a batch; nothing is computed.

    With the batch size of the evaluation, JAX later reuses what is traced here.

    Args:
      task: Task to evaluate.
      settings: Settings with `num_slots` and `num_iterations`.
      batch_size: Number of examples on a device.

    Raises:
      UserError: The evaluation does not work with a field of the config.
    """
    batch = {"index": jax.ShapeDtypeStruct((batch_size,), np.int32)}
    for field in task.evaluation_fields:
        shape, dtype = task.dataset.fields[field]
        batch[field] = jax.ShapeDtypeStruct((batch_size, *shape), dtype)
    rng = jax.random.PRNGKey(0)
    variables = jax.eval_shape(task.init, rng)
    for setting in settings:
        evaluate = functools.partial(
            task.evaluate,
            rng=rng,
            num_slots=setting.num_slots,
            num_iterations=setting.num_iterations,
        )
        jax.eval_shape(evaluate, variables, batch)


def _rows(
    columns: dict[str, np.ndarray],
    summarize: Callable[[dict[str, np.ndarray]], dict[str, float]],
    **where,
) -> list[dict[str, Any]]:
    """Return a row for all examples, and one for each number of objects.

    Args:
      columns: Columns `[n, ...]` of a table.
      summarize: Function from columns to the scalars of a row.
      **where: Further values of the rows.
    """
    parts: dict[int | str, dict[str, np.ndarray]] = {"all": columns}
    counts = columns.get("num_objects", np.zeros(0, int))
    for count in np.unique(counts).tolist():
        parts[count] = {name: v[counts == count] for name, v in columns.items()}
    rows = []
    for count, part in parts.items():
        scalars = summarize(part)
        scalars.pop("num_objects", None)
        row = {"num_objects": count} | where | metrics.count(part) | scalars
        rows.append(row)
    return rows


def evaluate(
    config: ml_collections.ConfigDict,
    workdir: pathlib.Path,
    *,
    split: str = "",
    num_slots: Sequence[int] = (),
    num_iterations: Sequence[int] = (),
    max_objects: Sequence[int] = (),
    merge_threshold: float | None = None,
    step: int | None = None,
) -> pathlib.Path:
    """Evaluate a run and its baselines, and write JSON, CSV and figures.

    The run may still be training.

    Args:
      config: Config of the run.
      workdir: Folder of the run; only `evaluations/` in it is written. Results of a
        published model go to `published.results_folder`.
      split: Name of the split; `config.evaluation_split` if empty.
      num_slots: Numbers of slots; as in training if empty. If `num_iterations` is also
        empty, the settings of `config.evaluations` are used.
      num_iterations: Numbers of iterations; as in training if empty.
      max_objects: Maximum numbers of objects per image, each evaluated separately; no
        limit if empty.
      merge_threshold: Cosine distance below which slots are merged; that of `config` if
        None.
      step: Checkpoint to load; the newest if None.

    Returns:
      The folder of the results.

    Raises:
      UserError: The run has no such checkpoint, or an option is out of range.
    """
    split = split or config.evaluation_split
    if merge_threshold is not None:
        merging.check_threshold("--merge_threshold", merge_threshold)
        config = config.copy_and_resolve_references()
        config.merge_threshold = float(merge_threshold)
    results_folder = published.results_folder(workdir)
    workdir_lib.check_writable(results_folder / DIRECTORY)
    compilation_cache.enable(config, results_folder)
    devices = Devices(config.parallelism)
    devices.check_batch_size("evaluation_batch_size", config.evaluation_batch_size)
    dataset = tasks.open_dataset(config)
    settings = settings_grid(config, num_slots, num_iterations)
    run = trained.open_run(workdir, step, config=config, dataset=dataset)
    # While the run trains, two hosts may see different newest checkpoints.
    devices.hosts.check_same(
        {"config.data_dir": dataset.fingerprints, "--step": run.step}
    )
    evaluator = Evaluator(run.task, devices)
    variables = devices.put_state(run.variables)
    merged = f"_merge_{merge_threshold:g}" if merge_threshold else ""
    directory = results_folder / DIRECTORY / f"{split}_step_{run.step}{merged}"
    workdir_lib.check_writable(directory)

    rows = []
    selected = {
        limit: evaluator.select(split, limit) for limit in max_objects or (None,)
    }
    blocks = list(dict.fromkeys(setting.num_slots for setting in settings))
    methods = baselines.available(run.task, blocks)
    passes = len(settings) + bool(methods)
    total = passes * sum(map(len, selected.values()))
    with progress.Progress(f"evaluating {workdir}", total, "images") as bar:
        for setting, (limit, indices) in itertools.product(settings, selected.items()):
            counts = {
                "num_slots": setting.num_slots,
                "num_iterations": setting.num_iterations,
            }
            table = evaluator.run(
                variables, split, **counts, indices=indices, advance=bar.advance
            )
            new_rows = _rows(
                table.columns(),
                run.task.summarize,
                method=results.MODEL,
                split=split,
                step=run.step,
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
                measures.brief(new_rows[0]),
            )
            rows += new_rows
        for limit, indices in selected.items() if methods else ():
            table = evaluator.run_baselines(
                split, num_slots=blocks, indices=indices, advance=bar.advance
            )
            columns = table.columns()
            for i, (method, count) in enumerate(methods):
                rows += _rows(
                    baselines.columns_of(columns, i),
                    baselines.summarize,
                    method=method,
                    split=split,
                    step=run.step,
                    num_slots=count,
                    num_iterations=None,
                    max_objects=limit or "all",
                    resolution=config.evaluation_resolution,
                )
    if devices.hosts.is_main:
        directory.mkdir(parents=True, exist_ok=True)
        rows = results.merge(directory, rows, config, dataset.fingerprints)
        for setting in settings if config.num_figure_examples else ():
            draw, caption = evaluator.figure(run.variables, split, setting)
            name = f"slots_{setting.num_slots}_iterations_{setting.num_iterations}"
            figures.save(draw(), directory / f"segmentation_{name}.png", caption)
        _write_sweep(directory, rows)
    return directory


def settings_grid(
    config: ml_collections.ConfigDict,
    num_slots: Sequence[int],
    num_iterations: Sequence[int],
) -> list[ml_collections.ConfigDict]:
    """Return all combinations of `num_slots` and `num_iterations`.

    An empty sequence stands for the value in training. If both are empty, return the
    settings of `config.evaluations`.

    Raises:
      UserError: A number is not positive.
    """
    if not num_slots and not num_iterations:
        check_evaluations(config)
        return list(config.evaluations.values())
    for name, values in (("num_slots", num_slots), ("num_iterations", num_iterations)):
        for value in values:
            if value <= 0:
                raise UserError(f"--{name}={value}: not positive; choose at least 1")
    return [
        ml_collections.ConfigDict({"num_slots": slots, "num_iterations": iterations})
        for slots, iterations in itertools.product(
            num_slots or (config.num_slots,), num_iterations or (config.num_iterations,)
        )
    ]


def check_evaluations(config: ml_collections.ConfigDict):
    """Raise `UserError` unless each named evaluation sets slots and iterations."""
    for name, setting in config.evaluations.items():
        for field in ("num_slots", "num_iterations"):
            if not hasattr(setting, "get") or setting.get(field) is None:
                raise UserError(
                    f"config.evaluations.{name}: has no {field}; set num_slots and "
                    "num_iterations"
                )


def _write_sweep(directory: pathlib.Path, rows: list[dict[str, Any]]):
    """Draw the model's FG-ARI against the number of slots, if there are several."""
    model_rows = [
        row
        for row in rows
        if row["num_objects"] == "all" and row["method"] == results.MODEL
    ]
    several = len({row["num_iterations"] for row in model_rows}) > 1
    lines = {}
    for row in model_rows:
        limit = row["max_objects"]
        where = "" if limit == "all" else f", at most {limit} objects"
        where += f", {row['num_iterations']} iterations" if several else ""
        for name in row:
            if "fg_ari" in name and row[name] is not None:
                points = lines.setdefault(f"{name}{where}", {})
                points.setdefault(row["num_slots"], []).append(row[name])
    if len({row["num_slots"] for row in model_rows}) > 1 and lines:
        figure = figures.sweep_plot(lines, xlabel="number of slots", ylabel="FG-ARI")
        figures.save(figure, directory / "fg_ari_by_num_slots.png")
