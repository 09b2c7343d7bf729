"""Evaluation over full splits, for a grid of numbers of slots, iterations, objects."""

import functools
import itertools
import pathlib
from collections.abc import Callable, Sequence
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
from sanorm_jax.trained import Setting

DIRECTORY = "evaluations"


class Evaluator:
    """Evaluator of a task over full splits, whose batches the devices share.

    The initial slots of an example depend only on `config.evaluation_seed` and its
    index in the split.
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

        `max_objects` replaces `config.evaluation_max_objects` unless None.
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
        # With the batch size of the evaluation, JAX later reuses what is traced here.
        num_devices = self._devices.num_devices * self._devices.hosts.count
        size = config.evaluation_batch_size // num_devices
        batch = {"index": jax.ShapeDtypeStruct((size,), np.int32)}
        for field in task.evaluation_fields:
            shape, dtype = dataset.fields[field]
            batch[field] = jax.ShapeDtypeStruct((size, *shape), dtype)
        rng = jax.random.PRNGKey(0)
        variables = jax.eval_shape(task.init, rng)
        for setting in evaluations(config).values():
            evaluate = functools.partial(task.evaluate, rng=rng, **setting._asdict())
            jax.eval_shape(evaluate, variables, batch)

    def run(
        self,
        variables: Any,
        split: str,
        setting: Setting,
        *,
        indices: np.ndarray | None = None,
        check: Callable[[], None] = lambda: None,
        advance: Callable[[int], None] = lambda count: None,
    ) -> metrics.Table:
        """Return the measures of each example of a split.

        `variables` are on the devices. `indices` are those of `select` if None. `check`
        is called between batches and may raise to stop. `advance` is called after each
        batch with its number of examples.
        """
        seed = self._config.evaluation_seed
        return self._collect(
            lambda batch: self._compiled("evaluate", variables, batch, setting, seed),
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

        `num_slots` are the numbers of blocks. See `run` for the other arguments.
        """
        config, task = self._config, self._task
        function = self._baselines(tuple(num_slots))
        num_labels = task.dataset.settings["max_objects"] + 1
        map_values = num_labels * config.evaluation_resolution**2
        return self._collect(
            lambda batch: function((), batch, jax.random.PRNGKey(0)),
            split,
            indices,
            ("num_objects", *task.label_fields),
            trained.batch_size(config, self._devices, map_values),
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
        self, variables: Any, split: str, indices: np.ndarray, setting: Setting
    ) -> dict[str, np.ndarray]:
        """Return the task's predictions for a few examples, computed on one device.

        `variables` are as `Devices.get_state` returns them, and `indices` are `[n]`.
        """
        field = self._task.input_field
        batch = {
            field: self._task.dataset.read(split, field, indices),
            "index": np.asarray(indices, np.int32),
        }
        seed = self._config.evaluation_seed
        return jax.device_get(
            self._on_one_device("predict", variables, batch, setting, seed)
        )

    def figure(
        self, variables: Any, split: str, setting: Setting
    ) -> tuple[Callable[[], Figure], str]:
        """Return a function that draws predictions for a few examples, and a caption.

        The predictions are computed before this returns. The function may be called in
        another thread. `variables` are as for `predict`.
        """
        dataset = self._task.dataset
        indices = self.select(split)[: self._config.num_figure_examples]
        predicted = self.predict(variables, split, indices, setting)
        drawing = predictions.choose(predicted, dataset.fields)
        examples = drawing.read(dataset, split, indices)
        draw = functools.partial(drawing.draw, examples, {"predicted": predicted})
        return draw, f"{drawing.caption}. {drawing.details}".strip()


def _rows(
    columns: dict[str, np.ndarray],
    summarize: Callable[[dict[str, np.ndarray]], dict[str, float]],
    **where,
) -> list[dict[str, Any]]:
    """Return a row for all examples, and one for each number of objects."""
    parts: dict[int | str, dict[str, np.ndarray]] = {"all": columns}
    counts = columns.get("num_objects", np.zeros(0, int))
    for count in np.unique(counts).tolist():
        parts[count] = {name: v[counts == count] for name, v in columns.items()}
    return [
        {"num_objects": count} | where | metrics.count(part) | summarize(part)
        for count, part in parts.items()
    ]


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

    The run may still be training. Only `evaluations/` in `workdir` is written; results
    of a published model go to `published.results_folder`.

    The defaults are the split and the merging threshold of the config, the settings of
    `settings_grid`, all numbers of objects, and the newest checkpoint. Each of
    `max_objects` is evaluated separately.

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
            table = evaluator.run(
                variables, split, setting, indices=indices, advance=bar.advance
            )
            new_rows = _rows(
                table.columns(),
                run.task.summarize,
                method=results.MODEL,
                split=split,
                step=run.step,
                num_slots=setting.num_slots,
                num_iterations=setting.num_iterations,
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
) -> list[Setting]:
    """Return all combinations of `num_slots` and `num_iterations`.

    An empty sequence stands for the value in training. If both are empty, return the
    settings of `config.evaluations`.

    Raises:
      UserError: A number is not positive.
    """
    if not num_slots and not num_iterations:
        return list(evaluations(config).values())
    for name, values in (("num_slots", num_slots), ("num_iterations", num_iterations)):
        for value in values:
            if value <= 0:
                raise UserError(f"--{name}={value}: not positive; choose at least 1")
    grid = itertools.product(
        num_slots or (config.num_slots,), num_iterations or (config.num_iterations,)
    )
    return [Setting(*pair) for pair in grid]


def evaluations(config: ml_collections.ConfigDict) -> dict[str, Setting]:
    """Return the settings of `config.evaluations`, by name.

    Raises:
      UserError: A setting lacks the number of slots or of iterations.
    """
    settings = {}
    for name, setting in config.evaluations.items():
        for field in Setting._fields:
            if not hasattr(setting, "get") or setting.get(field) is None:
                raise UserError(
                    f"config.evaluations.{name}: has no {field}; set num_slots and "
                    "num_iterations"
                )
        settings[name] = Setting(setting.num_slots, setting.num_iterations)
    return settings


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
        figure = figures.sweep_plots(
            {"": lines}, xlabel="number of slots", ylabel="FG-ARI"
        )
        figures.save(figure, directory / "fg_ari_by_num_slots.png")
