"""Segmentation metrics of object-centric learning, on device, one value an image.

Everything follows from the contingency table of an image: how many of its pixels
have true label t and predicted label p. Label 0 of the truth is the background.
Pixels whose true label lies outside the stated range are left out. Those whose
predicted label does belong to no segment: ARI leaves them out, an overlap counts them
in the true object that they are of.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from sanorm_jax.core.errors import UserError, check_name
from sanorm_jax.metrics.matching import match

# N * (N - 1) must stay below 2**32 for exact counting of pixel pairs.
_EXACT_PIXELS = 2**16

UPSCALE_METHODS = ("refined", "repeated")


def contingency_table(
    true: jax.Array, predicted: jax.Array, *, num_true: int, num_predicted: int
) -> jax.Array:
    """Count the pixels of each pair of true and predicted label.

    Args:
      true: Integer labels `[B, H, W]` or `[B, N]`, 0 to `num_true` - 1.
      predicted: Integer labels of as many pixels, 0 to `num_predicted` - 1.
      num_true: Number of true labels, the background included.
      num_predicted: Number of predicted labels.

    Returns:
      int32 `[B, num_true, num_predicted]`.

    Raises:
      ValueError: if the two differ in their number of images or of pixels.
    """
    B = true.shape[0]
    # [B, N]
    true = true.reshape(B, -1).astype(jnp.int32)
    predicted = predicted.reshape(predicted.shape[0], -1).astype(jnp.int32)
    if true.shape != predicted.shape:
        raise ValueError(
            f"{true.shape} true labels against {predicted.shape} predicted ones"
        )
    size = B * num_true * num_predicted
    known = (true >= 0) & (true < num_true)
    known &= (predicted >= 0) & (predicted < num_predicted)
    image = jnp.arange(B, dtype=jnp.int32)[:, None]
    cell = (image * num_true + true) * num_predicted + predicted
    # An index past the end is dropped. One flat scatter is, on a CPU, 30 times
    # faster than a product of one-hot matrices and counts in integers.
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
    """Return the adjusted Rand index, agreement corrected for chance.

    Hubert and Arabie, "Comparing partitions" (1985), as scikit-learn's
    `adjusted_rand_score` computes it. Identical partitions score 1, also where
    one of them is trivial; so does an image without any counted pixel.

    Args:
      true: Integer labels `[B, H, W]` or `[B, N]`, 0 to `num_true` - 1.
      predicted: Integer labels of as many pixels, 0 to `num_predicted` - 1.
      num_true: Number of true labels, the background included.
      num_predicted: Number of predicted labels.
      ignore_background: Leave out pixels of true label 0 (FG-ARI).

    Returns:
      float32 `[B]`, at most 1.
    """
    table = _table_with_unclaimed(true, predicted, num_true, num_predicted)
    exact = true[0].size <= _EXACT_PIXELS
    return _adjusted_rand_index(table[..., :num_predicted], ignore_background, exact)


def _adjusted_rand_index(table, ignore_background, exact):
    if ignore_background:
        table = table[:, 1:]
    # Pair counts pass float32's 2**24; uint32 holds them up to 256 x 256 pixels.
    # Above that, sums of non-negative terms keep float32's relative precision.
    table = table.astype(jnp.uint32 if exact else jnp.float32)
    total = table.sum((1, 2), keepdims=True)
    true_size = table.sum(2, keepdims=True)
    predicted_size = table.sum(1, keepdims=True)

    def pairs(others):
        # Ordered pairs of pixels: one in the cell, the other among `others`.
        return jnp.sum(table * others, (1, 2)).astype(jnp.float32)

    # An empty cell has no pixel to pair; `maximum` keeps uint32 from wrapping.
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
    """Mean best overlap (mBO): each true object's best IoU with any segment.

    Pont-Tuset et al., "Multiscale combinatorial grouping" (2017). An image
    without objects has none: its NaN is left out of means, see `table.mean`.

    Args:
      true: Integer labels `[B, H, W]` or `[B, N]`; 0 is background, no object.
      predicted: Integer labels of as many pixels, 0 to `num_predicted` - 1.
      num_true: Number of true labels, the background included.
      num_predicted: Number of predicted labels.
      classes: For the class level, the class of each true label
        `[B, num_true]`, 0 to `num_classes` - 1; below 0 means background.
        Objects of one class then count as one.
      num_classes: Number of classes; goes with `classes`.
      with_background: Count the background as one more object, as the tables of
        VQ-VFM-OCL do (Zhao et al., 2025). Without `classes` only.

    Returns:
      float32 `[B]`, 0 to 1, NaN for an image without objects.
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
    """Mean IoU (mIoU) of true objects with segments matched one to one.

    Hungarian matching maximises the sum of overlaps; an object left without a
    segment counts as 0. Arguments and result as for `mean_best_overlap`.
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
    """Return the best IoU of each object with any segment, weighted by its size.

    Arbelaez et al., "Contour Detection and Hierarchical Image Segmentation" (TPAMI
    2011); over the objects alone, as in GENESIS (Engelcke et al., ICLR 2020). mBO is
    its mean without weights. Arguments and result as for `mean_best_overlap`.
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
    """All metrics of a batch of segmentations.

    Under one `jit` the contingency table that they share is computed once. Arguments
    as for `mean_best_overlap`.

    Returns:
      `ari`, `fg_ari`, `mbo`, `miou`, `mbo_bg` (with the background as an object) and
      `covering` of instances; with `classes` also `mbo_class` and `miou_class`.
      float32 `[B]` each.
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
    """Count pixels that no segment claims in a column behind the others."""
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
    """Return IoU `[B, objects, num_predicted]` and sizes in pixels `[B, objects]`."""
    if (classes is None) != (num_classes is None):
        raise ValueError("`classes` and `num_classes` go together")
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
    """Enlarge soft masks or attention from a square token grid to pixels.

    Args:
      maps: `[B, K, N]`, tokens in row-major order.
      size: Side of the result, in pixels.
      method: `refined` interpolates bilinearly between token centres (half-pixel);
        `repeated` repeats each token.

    Returns:
      float32 `[B, K, size, size]`.

    Raises:
      UserError: The method is unknown, the size below 1, or N not a square.
    """
    B, K, N = maps.shape
    side = round(N**0.5)
    if side**2 != N:
        raise UserError(f"maps: {N} tokens do not form a square; crop the images")
    if size < 1:
        raise UserError(f"size: {size} is not a positive number of pixels")
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
    """Turn soft masks or attention on a token grid into a label map.

    The arg max over slots is taken after `refined` interpolation and, to the same
    result, before repetition. Arguments and errors as for `upscale_maps`.

    Returns:
      int32 `[B, size, size]`, 0 to K - 1.
    """
    if method == "repeated":
        # [B, 1, N]: labels up to 2**24 survive the float32 in between.
        labels = upscale_maps(jnp.argmax(maps, 1)[:, None], size, method)
        return labels[:, 0].astype(jnp.int32)
    return jnp.argmax(upscale_maps(maps, size, method), 1).astype(jnp.int32)


def resize_labels(labels: jax.Array, size: int) -> jax.Array:
    """Resize label maps by picking pixels: index round(i * old size / new size).

    Args:
      labels: `[B, H, W]`, any integer type.
      size: Side of the result, in pixels.

    Returns:
      `[B, size, size]` of the same type.
    """

    def pick(length):
        index = np.round(np.arange(size) * length / size).astype(np.int32)
        return np.minimum(index, length - 1)

    _, H, W = labels.shape
    return labels[:, pick(H)[:, None], pick(W)]
