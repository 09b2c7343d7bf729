"""Baseline segmentations, which involve no learning, and their evaluation.

The constant segmentation has one segment. Blocks form a regular grid. The oracle
consists of the true labels at the resolution of the tokens.
"""

import functools
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from sanorm_jax import metrics
from sanorm_jax.metrics import measures, segmentation
from sanorm_jax.tasks.base import Batch, Task

# Method and number of slots K of a baseline; None for baselines without slots.
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
    "oracle consists of the true labels at the resolution of the tokens."
)


def block_segmentation(size: int, num_slots: int) -> np.ndarray:
    """Divide the image into `num_slots` blocks, with similar numbers in each row.

    A model that uses only positions can produce this segmentation. A model that scores
    no better does not segment objects.

    Returns:
      Labels `[size, size]` from 0 to `num_slots - 1`, int32.
    """
    num_rows = round(num_slots**0.5)
    # First block of each row, for example of 2 + 2 + 3 blocks
    first = np.arange(num_rows + 1) * num_slots // num_rows
    pixels = np.arange(size)
    row = pixels * num_rows // size
    in_row = np.diff(first)[row]
    # [size, size]
    column = pixels * in_row[:, None] // size
    return (first[row][:, None] + column).astype(np.int32)


def token_oracle(
    labels: jax.Array,
    side: int,
    size: int,
    *,
    num_labels: int,
    ignore_background: bool = False,
) -> jax.Array:
    """Label each token with its most frequent true label.

    This approximates the best score that a model can reach at the token resolution.

    Args:
      labels: True labels `[B, H, W]` from 0 (the background) to `num_labels - 1`.
      side: Number of rows and of columns of tokens.
      size: Side of the result in pixels.
      num_labels: Number of true labels.
      ignore_background: Whether a token gets the label of its largest object even if
        the background is larger. Use it for FG-ARI, which ignores the background.

    Returns:
      Labels `[B, size, size]`, int32.
    """
    _, H, W = labels.shape

    def pool(length):
        # [side, length]; fraction of each pixel that is inside each token
        edges = np.linspace(0, length, side + 1)
        start = np.maximum(edges[:-1, None], np.arange(length))
        stop = np.minimum(edges[1:, None], np.arange(1, length + 1))
        return jnp.asarray(np.maximum(stop - start, 0), jnp.float32)

    # [B, L, H, W]
    one_hot = labels[:, None] == jnp.arange(num_labels)[:, None, None]
    share = jnp.einsum(
        "blyx,iy,jx->blij",
        one_hot.astype(jnp.float32),
        pool(H),
        pool(W),
        precision="highest",
    )
    if ignore_background:
        share = share.at[:, 0].set(jnp.where(share[:, 1:].any(1), 0.0, 1.0))
    # [B, L, h, w]
    majority = jax.nn.one_hot(jnp.argmax(share, 1), num_labels, axis=1)
    maps = majority.reshape(*majority.shape[:2], side**2)
    return segmentation.upscale_segmentation(maps, size)


def available(task: Task, num_slots: Sequence[int]) -> list[Baseline]:
    """Return the baselines of a task; empty without true segmentations.

    The oracle needs features, because it has the resolution of their tokens.
    """
    if "segmentation" not in task.dataset.fields:
        return []
    methods = [(CONSTANT, None), *((BLOCKS, count) for count in num_slots)]
    return methods + [(ORACLE, None)] * ("features" in task.dataset.fields)


def evaluate(
    task: Task, num_slots: Sequence[int], batch: Batch
) -> dict[str, jax.Array]:
    """Return the measures of all P baselines, `{name: [B, P]}`, and `num_objects`.

    Args:
      task: Task of the model that the baselines are compared with.
      num_slots: Numbers of blocks.
      batch: Batch with `num_objects` and `task.label_fields`.
    """
    size = task.config.evaluation_resolution
    num_true = task.dataset.settings["max_objects"] + 1
    # [B, size, size]
    labels = segmentation.resize_labels(batch["segmentation"], size)
    predicted = [
        jnp.broadcast_to(block_segmentation(size, count), labels.shape)
        for count in (1, *num_slots)
    ]
    has_oracle = "features" in task.dataset.fields
    if has_oracle:
        num_tokens = task.dataset.fields["features"][0][0]
        side = round(num_tokens**0.5)
        oracle = functools.partial(
            token_oracle, labels, side, size, num_labels=num_true
        )
        predicted += [oracle(), oracle(ignore_background=True)]

    def measure(predicted):
        return task.segmentation_measures(
            batch, size, predicted, max((num_true, *num_slots))
        )

    # {name: [P, B]}. `lax.map` compiles `measure` once for all baselines.
    measures = jax.lax.map(measure, jnp.stack(predicted))
    if has_oracle:
        # The last segmentation is the oracle for FG-ARI, which ignores the background.
        oracle_fg_ari = measures["fg_ari"][-1]
        measures = {name: values[:-1] for name, values in measures.items()}
        measures["fg_ari"] = measures["fg_ari"].at[-1].set(oracle_fg_ari)
    return {"num_objects": batch["num_objects"]} | {
        name: values.T for name, values in measures.items()
    }


def columns_of(columns: Mapping[str, np.ndarray], i: int) -> dict[str, np.ndarray]:
    """Return the columns `[n]` of the i-th of P baselines from `[n, P]` or `[n]`."""
    return {
        name: values[:, i] if values.ndim == 2 else values
        for name, values in columns.items()
    }


def summarize(columns: Mapping[str, np.ndarray]) -> dict[str, float]:
    """Return the means over examples of the columns `[n]` of one baseline."""
    return {
        name: metrics.mean(name, values)
        for name, values in columns.items()
        if name != "num_objects"
    }


def scores(
    rows: Iterable[Mapping[str, Any]], measure: str
) -> dict[str, float | dict[int, float]]:
    """Return the scores of the baselines that are comparable to a model's measure.

    `rows` are of one set of images. Rows of the model are ignored.

    Returns:
      The score of each method by its label; for blocks, the scores by number of blocks.
    """
    kind, _ = measures.split(measure)
    result: dict[str, Any] = {}
    for row in rows:
        label = LABELS.get(row["method"])
        for name, value in row.items() if label else ():
            if measures.split(name) != (kind, "") or value is None:
                continue
            if row["num_slots"] is None:
                result[label] = value
            else:
                result.setdefault(label, {})[row["num_slots"]] = value
    return result


def drawn(
    rows: Iterable[Mapping[str, Any]], measure: str
) -> dict[str, float | dict[int, float]]:
    """Return the `scores` in figures: all but the constant's, which are near 0."""
    shown = scores(rows, measure)
    shown.pop(LABELS[CONSTANT], None)
    return shown
