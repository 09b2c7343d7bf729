"""Segmentations without learning, scored like those of a model.

The constant puts the whole image into one segment, blocks cut it into a regular grid,
and the oracle is the true labels at the resolution of the tokens.
"""

import functools
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from sanorm_jax import metrics
from sanorm_jax.metrics import baselines, measures, segmentation
from sanorm_jax.tasks.base import Batch, Task

# Method and number of slots K of a baseline; None where it has no number of slots.
Baseline = tuple[str, int | None]

CONSTANT = "constant"
BLOCKS = "blocks"
ORACLE = "oracle"
# Names in tables and figures.
LABELS = {
    CONSTANT: "constant segmentation",
    BLOCKS: "grid of blocks",
    ORACLE: "oracle",
}
DESCRIPTION = (
    "The constant segmentation and the grid of blocks do not depend on the image. The "
    "oracle is the true labels at the resolution of the tokens."
)


def available(task: Task, num_slots: Sequence[int]) -> list[Baseline]:
    """Return the baselines of a task: none without true segmentations.

    Args:
      task: Task of the model that they are compared with. Without features there are
        no tokens and hence no oracle.
      num_slots: Numbers of blocks.
    """
    if "segmentation" not in task.dataset.fields:
        return []
    found = [(CONSTANT, None), *((BLOCKS, count) for count in num_slots)]
    return found + [(ORACLE, None)] * ("features" in task.dataset.fields)


def fields(task: Task) -> tuple[str, ...]:
    """Return the fields of the dataset that `evaluate` reads."""
    return ("num_objects", *task.label_fields)


def values_per_example(task: Task) -> int:
    """Return the number of values that the maps of an example hold."""
    return (
        task.dataset.settings["max_objects"] + 1
    ) * task.config.evaluation_resolution**2


def evaluate(
    task: Task, num_slots: Sequence[int], batch: Batch
) -> dict[str, jax.Array]:
    """Return the measures of all P baselines, `{name: [B, P]}`, and `num_objects`.

    Args:
      task: Task of the model, with its resolution and tokens.
      num_slots: Numbers of blocks.
      batch: Has `fields`.
    """
    size = task.config.evaluation_resolution
    num_true = task.dataset.settings["max_objects"] + 1
    # [B, size, size]
    labels = segmentation.resize_labels(batch["segmentation"], size)
    predicted = [
        jnp.broadcast_to(baselines.block_segmentation(size, count), labels.shape)
        for count in (1, *num_slots)
    ]
    has_oracle = (ORACLE, None) in available(task, num_slots)
    if has_oracle:
        num_tokens = task.dataset.fields["features"][0][0]
        side = round(num_tokens**0.5)
        oracle = functools.partial(
            baselines.token_oracle, labels, (side, side), size, num_labels=num_true
        )
        predicted += [oracle(), oracle(ignore_background=True)]

    def measure(predicted):
        return task.segmentation_measures(
            batch, size, predicted, max((num_true, *num_slots))
        )

    # Compiled once for all of them; {name: [P, B]}
    measures = jax.lax.map(measure, jnp.stack(predicted))
    if has_oracle:
        # The last segmentation is the oracle of FG-ARI, which ignores the background.
        of_objects = measures["fg_ari"][-1]
        measures = {name: values[:-1] for name, values in measures.items()}
        measures["fg_ari"] = measures["fg_ari"].at[-1].set(of_objects)
    return {"num_objects": batch["num_objects"]} | {
        name: values.T for name, values in measures.items()
    }


def columns_of(columns: Mapping[str, np.ndarray], i: int) -> dict[str, np.ndarray]:
    """Return the columns `[n]` of the i-th baseline.

    Args:
      columns: Columns that `evaluate` returned, `[n, P]` or `[n]`.
      i: Position of the baseline in `available`.
    """
    return {
        name: values[:, i] if values.ndim == 2 else values
        for name, values in columns.items()
    }


def summarize(columns: Mapping[str, np.ndarray]) -> dict[str, float]:
    """Return the means over examples of the columns `[n]` of one baseline."""
    return {name: metrics.mean(name, values) for name, values in columns.items()}


def scores(
    rows: Iterable[Mapping[str, Any]], measure: str
) -> dict[str, float | dict[int, float]]:
    """Return the scores of baselines to compare with a measure of a model.

    Args:
      rows: Rows of one set of images; those of the model are left out.
      measure: Measure of the model, such as `fg_ari_masks_refined`.

    Returns:
      A score by label of the method, or scores by number of blocks.
    """
    kind, _ = measures.split(measure)
    found: dict[str, Any] = {}
    for row in rows:
        label = LABELS.get(row["method"])
        for name, value in row.items() if label else ():
            if measures.split(name) != (kind, "") or value is None:
                continue
            if row["num_slots"] is None:
                found[label] = value
            else:
                found.setdefault(label, {})[row["num_slots"]] = value
    return found


def drawn(
    rows: Iterable[Mapping[str, Any]], measure: str
) -> dict[str, float | dict[int, float]]:
    """Return the `scores` that figures show: all but the constant's, near 0."""
    found = scores(rows, measure)
    found.pop(LABELS[CONSTANT], None)
    return found
