"""What needs no model: scores to hold those of a model against."""

import functools
from collections.abc import Sequence

import jax
import numpy as np

from sanorm_jax import metrics, tasks
from sanorm_jax.metrics import baselines, segmentation

MEASURES = ("fg_ari", "ari", "mbo")
_IMAGES_AT_ONCE = 64
# The oracle holds a map of floats of each label.
_MOST_BYTES = 2**29


def block_name(measure: str, num_slots: int) -> str:
    """Return the column of `table` for the image cut into so many blocks."""
    return f"{measure}_blocks_{num_slots}"


def oracle_name(measure: str) -> str:
    """Return the column of `table` for the true labels of the tokens."""
    return f"{measure}_oracle"


def table(
    task: tasks.Task, split: str, indices: np.ndarray, num_slots: Sequence[int]
) -> metrics.Table:
    """Return FG-ARI, ARI and mBO of each image at the task's evaluation resolution.

    Of the image cut into a grid of blocks, for each number of blocks; and of an
    oracle, the true labels at the resolution of the tokens, where the task has
    tokens. Columns are named by `block_name` and `oracle_name`; `num_objects` is
    there too.

    Args:
      task: whose resolution and tokens count.
      split: name of the split.
      indices: examples.
      num_slots: numbers of blocks.
    """
    dataset, size = task.dataset, task.config.evaluation_resolution
    num_true = dataset.settings["max_objects"] + 1
    # Compiled: operation by operation they would take minutes.
    compare = jax.jit(
        functools.partial(
            segmentation.segmentation_metrics,
            num_true=num_true,
            num_predicted=max(num_true, *num_slots),
        )
    )
    result = metrics.Table()
    fitting = max(1, _MOST_BYTES // (4 * num_true * size**2))
    at_once = min(_IMAGES_AT_ONCE, fitting)
    for start in range(0, len(indices), at_once):
        part = indices[start : start + at_once]
        labels = dataset.read(split, "segmentation", part)
        labels = segmentation.resize_labels(labels, size)
        values = {"num_objects": dataset.read(split, "num_objects", part)}

        for count in num_slots:
            blocks = np.broadcast_to(
                baselines.block_segmentation(size, count), labels.shape
            )
            scores = compare(labels, blocks)
            values |= {block_name(m, count): scores[m] for m in MEASURES}
        if "features" in dataset.fields:
            side = round(dataset.fields["features"][0][0] ** 0.5)
            for ignore, names in ((True, ("fg_ari",)), (False, ("ari", "mbo"))):
                oracle = baselines.token_oracle(
                    labels,
                    (side, side),
                    size,
                    num_labels=num_true,
                    ignore_background=ignore,
                )
                scores = compare(labels, oracle)
                values |= {oracle_name(m): scores[m] for m in names}
        result.add(part, np.ones(len(part), bool), values)
    return result
