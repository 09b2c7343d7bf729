"""The numbers of a study, from the tables that its jobs have left.

Every row counts the images of one range of numbers of objects, taken from the table of
the whole split: nothing is evaluated again for a smaller range.
"""

import math
from collections.abc import Iterable, Sequence
from typing import Any

import ml_collections
import numpy as np

from sanorm_jax import metrics, tasks
from sanorm_jax.core.errors import UserError
from sanorm_jax.evaluate import Evaluator
from sanorm_jax.report import references
from sanorm_jax.run.distribution.devices import Devices
from sanorm_jax.study import jobs as jobs_lib
from sanorm_jax.study.jobs import Job

Row = dict[str, Any]
# What a row is about, and what a mean is taken over.
VARIANT = ("train_setting", "normalization")
PLACE = ("dataset", "num_slots", "min_objects", "max_objects")


class Data:
    """One of the study's evaluations: its task, its images and their baselines.

    Attributes:
      name: of the evaluation.
      task: of any of the jobs, on the data evaluated.
      indices: examples of the split.
      num_objects: of each example, `[n]`.
    """

    def __init__(self, name: str, job: Job, study: ml_collections.ConfigDict):
        config = job.evaluation_config(name, study)
        self.name = name
        self.settings = study.evaluation.datasets[name]
        self.task = tasks.create(config, tasks.open_dataset(config))
        split = config.evaluation_split
        self.indices = Evaluator(self.task, Devices("jit")).select(split)
        self.num_objects = self.task.dataset.read(split, "num_objects", self.indices)
        self.references = {}
        if "segmentation" in self.task.dataset.fields:
            table = references.table(
                self.task, split, self.indices, study.evaluation.num_slots
            )
            self.references = table.columns()

    def ranges(self, most_trained: int) -> list[tuple[int, int]]:
        """Return the ranges (least, most) of objects that rows are made for.

        Args:
          most_trained: objects in training; 0 if not limited.
        """
        least, most = self.settings.min_objects, int(self.num_objects.max())
        ranges = [(least, limit) for limit in self.settings.max_objects]
        ranges += [(least, most), (least, most_trained), (most_trained + 1, most)]
        ranges += [(n, n) for n in np.unique(self.num_objects).tolist()]
        return [
            (low, high)
            for low, high in dict.fromkeys(ranges)
            if low <= high and self.within(low, high).any()
        ]

    def within(self, least: int, most: int) -> np.ndarray:
        """Return which examples have so many objects, bool `[n]`."""
        return (self.num_objects >= least) & (self.num_objects <= most)

    def reference(self, name: str, least: int, most: int) -> float | None:
        """Return the mean of a column of `references.table`, None without it."""
        if name not in self.references:
            return None
        return metrics.mean(name, self.references[name][self.within(least, most)])


def collect(
    study: ml_collections.ConfigDict, jobs: Sequence[Job], data: Sequence[Data]
) -> list[Row]:
    """Return a row for each table and range of objects, of the jobs that are done."""
    rows = []
    for job in jobs:
        if not jobs_lib.is_finished(job, study):
            continue
        for one in data:
            for num_slots in study.evaluation.num_slots:
                rows += _table_rows(job, one, num_slots)
    return rows


def _table_rows(job: Job, data: Data, num_slots: int) -> Iterable[Row]:
    columns, settings = jobs_lib.read_arrays(job.table_path(data.name, num_slots))
    fingerprints = data.task.dataset.fingerprints
    if settings["fingerprints"] != fingerprints or not np.array_equal(
        columns.pop("index"), data.indices
    ):
        raise UserError(
            f"{job.table_path(data.name, num_slots)}: was made of other data than "
            f"{job.config.data_dir} holds now; remove it to evaluate again"
        )
    for least, most in data.ranges(job.config.max_objects):
        part = data.within(least, most)
        mine = {name: values[part] for name, values in columns.items()}
        scalars = metrics.count(mine) | data.task.summarize(mine)
        scalars.pop("num_objects", None)
        yield {
            "train_setting": job.train_setting,
            "normalization": job.normalization,
            "seed": job.seed,
            "train_slots": job.config.num_slots,
            "train_max_objects": job.config.max_objects or "all",
            "learning_rate": job.config.optimizer.learning_rate,
            "dataset": data.name,
            "split": settings["split"],
            "step": settings["step"],
            "num_iterations": settings["num_iterations"],
            "resolution": settings["resolution"],
            "num_slots": num_slots,
            "min_objects": least,
            "max_objects": most,
        } | scalars


def select(rows: Iterable[Row], **where) -> list[Row]:
    """Return the rows that have the given values."""
    return [r for r in rows if all(r[name] == value for name, value in where.items())]


def mean_and_spread(values: Sequence[float]) -> tuple[float, float]:
    """Return the mean and the standard deviation of a sample (n - 1; NaN for one)."""
    spread = float(np.std(values, ddof=1)) if len(values) > 1 else math.nan
    return float(np.mean(values)), spread


def summarize(rows: Sequence[Row], measures: Sequence[str]) -> list[Row]:
    """Return mean and standard deviation over seeds of every variant and place."""
    groups: dict[tuple, list[Row]] = {}
    for row in rows:
        groups.setdefault(tuple(row[n] for n in (*VARIANT, *PLACE)), []).append(row)
    summary = []
    for key, group in groups.items():
        line = dict(zip((*VARIANT, *PLACE), key, strict=True))
        line |= {name: group[0][name] for name in ("resolution", "num_examples")}
        line["num_seeds"] = len(group)
        for measure in measures:
            mean, spread = mean_and_spread([row[measure] for row in group])
            line |= {f"{measure}_mean": mean, f"{measure}_std": spread}
        summary.append(line)
    return summary


def cell(values: Sequence[float]) -> str:
    """Return mean and standard deviation as a table shows them."""
    mean, spread = mean_and_spread(values)
    return f"{mean:.3f}" if math.isnan(spread) else f"{mean:.3f} ± {spread:.3f}"


def nearest(rows: Sequence[Row]) -> int:
    """Return the number of slots evaluated that is nearest to those trained."""
    slots = {row["num_slots"] for row in rows}
    return min(slots, key=lambda k: (abs(k - rows[0]["train_slots"]), k))
