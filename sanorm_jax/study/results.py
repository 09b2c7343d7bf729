"""Rows of a study's results, from the tables of its jobs.

A row averages over the images with a range of numbers of objects. It is computed from
the table of the full split, without evaluating again and without model or data.
"""

import math
from collections.abc import Iterable, Sequence
from typing import Any

import ml_collections
import numpy as np

from sanorm_jax import baselines, metrics, trained
from sanorm_jax.core.errors import UserError
from sanorm_jax.metrics import measures
from sanorm_jax.run.folder.results import MODEL
from sanorm_jax.study import jobs as jobs_lib
from sanorm_jax.study.jobs import Job

Row = dict[str, Any]
# Columns that identify a mean over seeds.
VARIANT = ("train_setting", "variant")
SETTING = ("dataset", "num_slots", "min_objects", "max_objects")


class Data:
    """One of the study's evaluations: its images and their baselines.

    Attributes:
      settings: Settings of the evaluation in the study's config.
      task: Task of one of the jobs, which summarizes tables.
      indices: Indices `[n]` of the examples in their split.
      num_objects: Number of objects of each example, `[n]`.
      min_objects: Minimum number of objects of the evaluation.
      max_objects: Maximum number of objects of the examples.
      methods: Baselines, as `baselines.available` returned them.
    """

    def __init__(self, name: str, job: Job, study: ml_collections.ConfigDict):
        self.name = name
        self.settings = study.evaluation.datasets[name]
        self.task = trained.describe_task(job.workdir, job.config)
        columns, settings = jobs_lib.read_arrays(job.baselines_path(name))
        self._columns = columns
        self.fingerprints = settings["fingerprints"]
        self.indices = columns.pop("index")
        self.num_objects = columns["num_objects"]
        self.min_objects: int = self.settings.min_objects
        self.max_objects = int(self.num_objects.max())
        self.methods: list[baselines.Baseline] = [
            (method, num_slots) for method, num_slots in settings["methods"]
        ]
        self._setting = {
            "dataset": name,
            "split": settings["split"],
            "resolution": settings["resolution"],
        }

    def ranges(self, max_trained: int) -> list[tuple[int, int]]:
        """Return the ranges (minimum, maximum) of objects that have rows.

        `max_trained` is the maximum number of objects in training; 0 if not limited.
        """
        low, high = self.min_objects, self.max_objects
        ranges = [(low, limit) for limit in self.settings.max_objects]
        ranges += [(low, high), (low, max_trained), (max_trained + 1, high)]
        ranges += [(n, n) for n in np.unique(self.num_objects).tolist()]
        return [
            (low, high)
            for low, high in dict.fromkeys(ranges)
            if low <= high and self.within(low, high).any()
        ]

    def within(self, low: int, high: int) -> np.ndarray:
        """Return which examples have `low` to `high` objects, bool `[n]`."""
        return (self.num_objects >= low) & (self.num_objects <= high)

    def on_all_images(self, rows: Iterable[Row]) -> list[Row]:
        """Return the rows that average over all examples with `min_objects`."""
        return select(rows, min_objects=self.min_objects, max_objects=self.max_objects)

    def baseline_rows(self, low: int, high: int) -> list[Row]:
        """Return a row for each baseline, on images with `low` to `high` objects."""
        part = self.within(low, high)
        rows = []
        for i, (method, num_slots) in enumerate(self.methods):
            columns = baselines.columns_of(self._columns, i)
            columns = {name: values[part] for name, values in columns.items()}
            scalars = metrics.count(columns) | baselines.summarize(columns)
            where = {"num_slots": num_slots, "min_objects": low, "max_objects": high}
            rows.append({"method": method} | self._setting | where | scalars)
        return rows


def collect(
    study: ml_collections.ConfigDict, jobs: Sequence[Job], data: Sequence[Data]
) -> list[Row]:
    """Return a row for each table and range of objects of finished jobs."""
    return [
        row
        for job in jobs
        for one in data
        for num_slots in jobs_lib.evaluated_slots(job, study)
        for row in _table_rows(job, one, num_slots)
    ]


def _table_rows(job: Job, data: Data, num_slots: int) -> Iterable[Row]:
    path = job.table_path(data.name, num_slots)
    columns, settings = jobs_lib.read_arrays(path)
    if settings["fingerprints"] != data.fingerprints or not np.array_equal(
        columns.pop("index"), data.indices
    ):
        raise UserError(
            f"{path}: has other data than {job.baselines_path(data.name)}; "
            "remove both and run the study again"
        )
    for low, high in data.ranges(job.config.max_objects):
        part = data.within(low, high)
        mine = {name: values[part] for name, values in columns.items()}
        scalars = metrics.count(mine) | data.task.summarize(mine)
        yield {
            "method": MODEL,
            "train_setting": job.train_setting,
            "variant": job.variant,
            "seed": job.seed,
            "train_slots": job.config.num_slots,
            "train_max_objects": job.config.max_objects or "all",
            "learning_rate": job.config.optimizer.learning_rate,
            "merge_threshold": settings.get("merge_threshold", 0.0),
            "dataset": data.name,
            "split": settings["split"],
            "step": settings["step"],
            "num_iterations": settings["num_iterations"],
            "resolution": settings["resolution"],
            "num_slots": num_slots,
            "min_objects": low,
            "max_objects": high,
        } | scalars


def baseline_rows(rows: Sequence[Row], data: Sequence[Data]) -> list[Row]:
    """Return the rows of the baselines on the images of the models' rows."""
    found = []
    for one in data:
        mine = select(rows, dataset=one.name)
        ranges = dict.fromkeys((row["min_objects"], row["max_objects"]) for row in mine)
        for low, high in ranges:
            found += one.baseline_rows(low, high)
    return found


def select(rows: Iterable[Row], **where) -> list[Row]:
    """Return the rows with the values `where`."""
    return [r for r in rows if all(r[name] == value for name, value in where.items())]


def by_variant(rows: Iterable[Row]) -> dict[str, list[Row]]:
    """Return the rows of each variant, by its name in reports."""
    found: dict[str, list[Row]] = {}
    for row in rows:
        found.setdefault(measures.variant(row["variant"]), []).append(row)
    return found


def _mean_and_spread(values: Sequence[float]) -> tuple[float, float]:
    """Return the mean and the sample standard deviation (NaN for a single value)."""
    spread = float(np.std(values, ddof=1)) if len(values) > 1 else math.nan
    return float(np.mean(values)), spread


def summarize(rows: Sequence[Row], names: Sequence[str]) -> list[Row]:
    """Return mean and deviation of measures over seeds, by variant and setting."""
    groups: dict[tuple, list[Row]] = {}
    for row in rows:
        groups.setdefault(tuple(row[n] for n in (*VARIANT, *SETTING)), []).append(row)
    summary = []
    for key, group in groups.items():
        line = dict(zip((*VARIANT, *SETTING), key, strict=True))
        line |= {name: group[0][name] for name in ("resolution", "num_examples")}
        line["num_seeds"] = len(group)
        for measure in names:
            mean, spread = _mean_and_spread([row[measure] for row in group])
            line |= {f"{measure}_mean": mean, f"{measure}_std": spread}
        summary.append(line)
    return summary


def cell(values: Sequence[float]) -> str:
    """Return mean and standard deviation as text for a table."""
    mean, spread = _mean_and_spread(values)
    return f"{mean:.3f}" if math.isnan(spread) else f"{mean:.3f} ± {spread:.3f}"


def nearest(rows: Sequence[Row]) -> int:
    """Return the evaluated number of slots that is nearest to that of training."""
    slots = {row["num_slots"] for row in rows}
    return min(slots, key=lambda k: (abs(k - rows[0]["train_slots"]), k))
