"""Measures of the slot count, which distinguish over- from under-segmentation.

All are computed from the contingency table of an image, see `segmentation`. As for ARI,
pixels without a true label or without a predicted label are excluded.
"""

import jax
import jax.numpy as jnp

from sanorm_jax.metrics.segmentation import contingency_table

# A slot covers an object if it contains at least this fraction of the object's pixels.
COVERS = 0.1


def count_metrics(
    true: jax.Array, predicted: jax.Array, *, num_true: int, num_predicted: int
) -> dict[str, jax.Array]:
    """Return all measures of the slot count of label maps, see `segmentation`.

    Let `n[t, k]` be the number of pixels that object t (not the background) and slot k
    share. Only pairs of object pixels are counted.

        pair_precision   = sum_tk C(n[t, k], 2) / sum_k C(sum_t n[t, k], 2)
                           Of all pairs in the same slot, the fraction in the same
                           object. Low with under-segmentation.
        pair_recall      = sum_tk C(n[t, k], 2) / sum_t C(sum_k n[t, k], 2)
                           Of all pairs in the same object, the fraction in the same
                           slot. Low with over-segmentation.
        pair_f1          = their harmonic mean
        slots_per_object = number of slots that cover an object, averaged over objects
        objects_per_slot = number of objects that a slot covers, averaged over the slots
                           that cover at least one
        count_error      = number of slots with a pixel - number of true segments with a
                           pixel, including the background
        count_abs_error  = its absolute value

    A slot covers an object if it contains at least `COVERS` of the object's pixels. The
    pair measures match scikit-learn's `pair_confusion_matrix`. Without any pair,
    precision or recall is 1.

    Returns:
      The measures `[B]` by name, float32. For an image without objects, all are NaN
      except for `count_error` and `count_abs_error`.
    """
    # [B, T, K], and [B, T - 1, K] without the background
    table = contingency_table(
        true, predicted, num_true=num_true, num_predicted=num_predicted
    )
    counts = table[:, 1:].astype(jnp.float32)
    object_size = counts.sum(2)
    num_objects = (object_size > 0).sum(1)

    both = _pairs(counts).sum((1, 2))
    precision = _ratio(both, _pairs(counts.sum(1)).sum(1))
    recall = _ratio(both, _pairs(object_size).sum(1))
    covers = (counts >= COVERS * object_size[..., None]) & (counts > 0)
    num_covering = covers.any(1).sum(1)
    of_objects = {
        "pair_precision": precision,
        "pair_recall": recall,
        "pair_f1": 2 * precision * recall / jnp.maximum(precision + recall, 1e-12),
        "slots_per_object": covers.sum((1, 2)) / jnp.maximum(num_objects, 1),
        "objects_per_slot": covers.sum((1, 2)) / jnp.maximum(num_covering, 1),
    }
    error = (table.any(1).sum(1) - table.any(2).sum(1)).astype(jnp.float32)
    return {
        name: jnp.where(num_objects > 0, value, jnp.nan)
        for name, value in of_objects.items()
    } | {"count_error": error, "count_abs_error": jnp.abs(error)}


def _pairs(counts: jax.Array) -> jax.Array:
    """Return the numbers of ordered pairs among these numbers of pixels."""
    return counts * (counts - 1)


def _ratio(part: jax.Array, whole: jax.Array) -> jax.Array:
    return jnp.where(whole > 0, part / jnp.maximum(whole, 1), 1.0)
