"""Segmentation metrics of object-centric learning, on device, one value per image.

All metrics are computed from the contingency table of an image, which counts the pixels
with true label t and predicted label p. Labels are integers, `[B, H, W]` or `[B, N]`:
`true` from 0 (the background) to `num_true - 1`, and `predicted` from 0 to
`num_predicted - 1`. Pixels with a true label out of range are ignored. Pixels with a
predicted label out of range belong to no segment: ARI ignores them, and IoUs count them
as part of their true object.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from sanorm_jax.core.errors import UserError, check_name
from sanorm_jax.metrics.matching import match

# Pairs of N pixels are counted exactly as long as N * (N - 1) is below 2**32.
_EXACT_PIXELS = 2**16

UPSCALE_METHODS = ("refined", "repeated")


def contingency_table(
    true: jax.Array, predicted: jax.Array, *, num_true: int, num_predicted: int
) -> jax.Array:
    """Return the numbers of pixels `[B, num_true, num_predicted]`, int32.

    Raises:
      ValueError: The numbers of images or pixels differ.
    """
    B = true.shape[0]
    # [B, N]
    true = true.reshape(B, -1).astype(jnp.int32)
    predicted = predicted.reshape(predicted.shape[0], -1).astype(jnp.int32)
    if true.shape != predicted.shape:
        raise ValueError(
            f"{true.shape} true labels, but {predicted.shape} predicted labels"
        )
    size = B * num_true * num_predicted
    known = (true >= 0) & (true < num_true)
    known &= (predicted >= 0) & (predicted < num_predicted)
    image = jnp.arange(B, dtype=jnp.int32)[:, None]
    cell = (image * num_true + true) * num_predicted + predicted
    # Indices past the end are dropped. On a CPU, a flat scatter is 30 times faster than
    # a product of one-hot matrices, and it counts in integers.
    cell = jnp.where(known, cell, size)
    counts = jnp.zeros(size, jnp.int32).at[cell.reshape(-1)].add(1, mode="drop")
    return counts.reshape(B, num_true, num_predicted)


def adjusted_rand_index(
    true: jax.Array,
    predicted: jax.Array,
    *,
    num_true: int,
    num_predicted: int,
    ignore_background: bool = False,
) -> jax.Array:
    """Return the adjusted Rand index (ARI), the agreement corrected for chance.

    Source: Hubert and Arabie, "Comparing partitions" (Journal of Classification, 1985),
    as computed by scikit-learn's `adjusted_rand_score`. Identical partitions score 1,
    including trivial ones. An image without any counted pixel also scores 1. FG-ARI
    ignores the pixels of the background (`ignore_background`).

    Returns:
      The ARI `[B]`, float32, at most 1.
    """
    table = _table_with_unclaimed(true, predicted, num_true, num_predicted)
    table = table[:, int(ignore_background) :, :num_predicted]
    # Pair counts exceed 2**24, up to which float32 is exact. uint32 is exact up to 256
    # x 256 pixels. For larger images, float32 sums of non-negative terms are precise
    # enough.
    is_exact = true[0].size <= _EXACT_PIXELS
    table = table.astype(jnp.uint32 if is_exact else jnp.float32)
    total = table.sum((1, 2), keepdims=True)
    true_size = table.sum(2, keepdims=True)
    predicted_size = table.sum(1, keepdims=True)

    def pairs(others):
        # Number of ordered pairs of a pixel in each cell and one of `others`.
        return jnp.sum(table * others, (1, 2)).astype(jnp.float32)

    # `maximum` prevents uint32 from wrapping for empty cells.
    both = pairs(jnp.maximum(table, 1) - 1)
    only_true = pairs(true_size - table)
    only_predicted = pairs(predicted_size - table)
    neither = pairs((total - true_size) - (predicted_size - table))
    agreement = 2 * (both * neither - only_true * only_predicted)
    largest = (both + only_true) * (only_true + neither)
    largest += (both + only_predicted) * (only_predicted + neither)
    identical = (only_true == 0) & (only_predicted == 0)
    return jnp.where(identical, 1.0, agreement / jnp.where(identical, 1.0, largest))


def mean_best_overlap(
    true: jax.Array,
    predicted: jax.Array,
    *,
    num_true: int,
    num_predicted: int,
    classes: jax.Array | None = None,
    num_classes: int | None = None,
    with_background: bool = False,
) -> jax.Array:
    """Return the mean best overlap (mBO), the mean of each object's best IoU.

    Source: Pont-Tuset et al., "Multiscale Combinatorial Grouping for Image Segmentation
    and Object Proposal Generation" (TPAMI 2017). It is NaN for an image without
    objects, and `table.mean` excludes such images.

    At the class level, `classes` `[B, num_true]` has the class of each true label, from
    0 to `num_classes - 1` and negative for the background, and objects of the same
    class count as one object. With `with_background`, the background counts as one more
    object, as in the tables of VQ-VFM-OCL (Zhao et al., 2025); only without `classes`.

    Returns:
      The mBO `[B]`, float32, from 0 to 1.
    """
    overlap, size = _overlap(
        true, predicted, num_true, num_predicted, classes, num_classes, with_background
    )
    return _object_mean(overlap.max(-1), size > 0)


def mean_iou(
    true: jax.Array,
    predicted: jax.Array,
    *,
    num_true: int,
    num_predicted: int,
    classes: jax.Array | None = None,
    num_classes: int | None = None,
) -> jax.Array:
    """Return the mean IoU (mIoU) of true objects and matched segments.

    One-to-one Hungarian matching maximizes the sum of IoUs. An object without a segment
    counts as 0. See `mean_best_overlap` for classes and result.
    """
    overlap, size = _overlap(
        true, predicted, num_true, num_predicted, classes, num_classes
    )
    segment = match(-overlap)
    matched = jnp.take_along_axis(overlap, jnp.maximum(segment, 0)[..., None], 2)
    matched = jnp.where(segment >= 0, matched[..., 0], 0.0)
    return _object_mean(matched, size > 0)


def segmentation_covering(
    true: jax.Array, predicted: jax.Array, *, num_true: int, num_predicted: int
) -> jax.Array:
    """Return the mean best IoU of objects with any segment, weighted by object size.

    Source: Arbelaez et al., "Contour Detection and Hierarchical Image Segmentation"
    (TPAMI 2011). Only objects count, as in GENESIS (Engelcke et al., ICLR 2020). mBO is
    the unweighted mean.
    """
    overlap, size = _overlap(true, predicted, num_true, num_predicted)
    total = size.sum(-1)
    covering = (size * overlap.max(-1)).sum(-1) / jnp.maximum(total, 1)
    return jnp.where(total > 0, covering, jnp.nan)


def segmentation_metrics(
    true: jax.Array,
    predicted: jax.Array,
    *,
    num_true: int,
    num_predicted: int,
    classes: jax.Array | None = None,
    num_classes: int | None = None,
) -> dict[str, jax.Array]:
    """Return all metrics of a batch of segmentations.

    Under `jit`, their common contingency table is computed only once. See
    `mean_best_overlap` for classes.

    Returns:
      `ari`, `fg_ari`, `mbo`, `miou`, `mbo_bg` (with the background as an object) and
      `covering`, and with `classes` also `mbo_class` and `miou_class`; `[B]` each,
      float32.
    """
    sizes: dict[str, Any] = {"num_true": num_true, "num_predicted": num_predicted}
    values = {
        "ari": adjusted_rand_index(true, predicted, **sizes),
        "fg_ari": adjusted_rand_index(true, predicted, **sizes, ignore_background=True),
        "mbo": mean_best_overlap(true, predicted, **sizes),
        "miou": mean_iou(true, predicted, **sizes),
        "mbo_bg": mean_best_overlap(true, predicted, **sizes, with_background=True),
        "covering": segmentation_covering(true, predicted, **sizes),
    }
    if classes is not None:
        sizes |= {"classes": classes, "num_classes": num_classes}
        values["mbo_class"] = mean_best_overlap(true, predicted, **sizes)
        values["miou_class"] = mean_iou(true, predicted, **sizes)
    return values


def _table_with_unclaimed(true, predicted, num_true, num_predicted):
    """Return the contingency table with a last column for pixels without a segment."""
    claimed = (predicted >= 0) & (predicted < num_predicted)
    return contingency_table(
        true,
        jnp.where(claimed, predicted, num_predicted),
        num_true=num_true,
        num_predicted=num_predicted + 1,
    )


def _overlap(
    true,
    predicted,
    num_true,
    num_predicted,
    classes=None,
    num_classes=None,
    with_background=False,
):
    """Return IoUs `[B, objects, num_predicted]` and object sizes `[B, objects]`."""
    table = _table_with_unclaimed(true, predicted, num_true, num_predicted)
    predicted_size = table.sum(1, keepdims=True)
    if classes is None:
        table = table if with_background else table[:, 1:]
    else:
        # [B, C, num_true] x [B, num_true, P] -> [B, C, P]
        member = classes[:, None, :] == jnp.arange(num_classes)[:, None]
        member = member.astype(jnp.int32)
        table = jnp.einsum("bct,btp->bcp", member, table)
    true_size = table.sum(2, keepdims=True)
    union = true_size + predicted_size - table
    overlap = table / jnp.maximum(union, 1)
    return overlap[..., :num_predicted], true_size[..., 0]


def _object_mean(values, present):
    count = present.sum(-1)
    mean = jnp.where(present, values, 0.0).sum(-1) / jnp.maximum(count, 1)
    return jnp.where(count > 0, mean, jnp.nan)


def upscale_maps(maps: jax.Array, size: int, method: str = "refined") -> jax.Array:
    """Upsample masks or attention from a square token grid to pixels.

    Args:
      maps: Masks or attention `[B, K, N]`, tokens in row-major order.
      size: Side of the result in pixels.
      method: Interpolation: `refined` is bilinear between token centers (half-pixel
        centers), `repeated` is nearest neighbor.

    Returns:
      Maps `[B, K, size, size]`, float32.

    Raises:
      UserError: The method is unknown, or N is not a square.
    """
    B, K, N = maps.shape
    side = round(N**0.5)
    if side**2 != N:
        raise UserError(f"maps: {N} tokens do not form a square; crop the images")
    check_name("method", method, UPSCALE_METHODS)
    # [B, K, h, w]
    maps = maps.reshape(B, K, side, side).astype(jnp.float32)
    if method == "refined":
        shape = (B, K, size, size)
        return jax.image.resize(maps, shape, "bilinear", antialias=False)
    token = np.arange(size) * side // size
    return maps[:, :, token[:, None], token]


def upscale_segmentation(
    maps: jax.Array, size: int, method: str = "refined"
) -> jax.Array:
    """Return the label map of masks or attention on a token grid.

    The arg max over slots follows `refined` interpolation. For `repeated` it comes
    first, which gives the same result. See `upscale_maps` for arguments and errors.

    Returns:
      Labels `[B, size, size]` from 0 to K - 1, int32.
    """
    if method == "repeated":
        # [B, 1, N]; float32 represents labels up to 2**24 exactly.
        labels = upscale_maps(jnp.argmax(maps, 1)[:, None], size, method)
        return labels[:, 0].astype(jnp.int32)
    return jnp.argmax(upscale_maps(maps, size, method), 1).astype(jnp.int32)


def resize_labels(labels: jax.Array, size: int) -> jax.Array:
    """Resize label maps `[B, H, W]` to `[B, size, size]` by nearest-neighbor sampling.

    Pixel i of the result is pixel round(i * old size / new size) of the input.
    """

    def pick(length):
        index = np.round(np.arange(size) * length / size).astype(np.int32)
        return np.minimum(index, length - 1)

    _, H, W = labels.shape
    return labels[:, pick(H)[:, None], pick(W)]
