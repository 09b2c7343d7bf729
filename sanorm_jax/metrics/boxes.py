"""Localization metrics on the bounding boxes of segments, one value per image."""

import jax
import jax.numpy as jnp

from sanorm_jax.metrics.segmentation import contingency_table

FOUND = 0.5  # minimum IoU of a recovered object


def box_metrics(
    true: jax.Array, predicted: jax.Array, *, num_true: int, num_predicted: int
) -> dict[str, jax.Array]:
    """Return CorLoc and object recovery of label maps, see `segmentation`.

    An object is recovered if its bounding box and that of any slot have an IoU of at
    least `FOUND`. Slots on the background are included, as in DINOSAUR (Seitzer et al.,
    ICLR 2023), which calls recovery the detection rate. Pixels without a true label
    belong to no box.

        corloc   = 1 if at least one object of the image is recovered, else 0 (Deselaers
                   et al., "Localizing Objects While Learning Their Appearance", ECCV
                   2010).
        recovery = fraction of objects that are recovered.

    Returns:
      `corloc` and `recovery`, float32 `[B]`, NaN for an image without objects.
    """
    predicted = predicted.reshape(true.shape)
    known = (true >= 0) & (true < num_true)
    # [B, T - 1, 1, 4] and [B, 1, P, 4]
    objects = _boxes(true, num_true)[:, 1:, None]
    slots = _boxes(jnp.where(known, predicted, -1), num_predicted)[:, None]
    start = jnp.maximum(objects[..., :2], slots[..., :2])
    stop = jnp.minimum(objects[..., 2:], slots[..., 2:])
    # [B, T - 1, P]
    shared = jnp.maximum(stop - start, 0).prod(-1)
    union = _area(objects) + _area(slots) - shared
    found = (shared > 0) & (shared >= FOUND * union)
    # [B, T - 1]
    recovered = found.any(2)
    present = _area(objects[:, :, 0]) > 0
    num_objects = present.sum(1)
    recovery = recovered.sum(1) / jnp.maximum(num_objects, 1)
    return {
        "corloc": jnp.where(num_objects > 0, recovered.any(1), jnp.nan),
        "recovery": jnp.where(num_objects > 0, recovery, jnp.nan),
    }


def _boxes(labels: jax.Array, num_labels: int) -> jax.Array:
    """Return boxes `[B, L, 4]`: first row and column, last row and column plus 1.

    The box of an absent label has no area.
    """
    starts, stops = [], []
    for axis in (1, 2):
        size = labels.shape[axis]
        position = jax.lax.broadcasted_iota(jnp.int32, labels.shape, axis)
        # [B, L, size]; whether the label occurs in a row or column
        has = contingency_table(
            labels, position, num_true=num_labels, num_predicted=size
        ).astype(bool)
        stop = size - jnp.argmax(has[..., ::-1], axis=-1)
        starts.append(jnp.argmax(has, axis=-1))
        stops.append(jnp.where(has.any(-1), stop, 0))
    return jnp.stack([*starts, *stops], axis=-1)


def _area(boxes: jax.Array) -> jax.Array:
    return jnp.maximum(boxes[..., 2:] - boxes[..., :2], 0).prod(-1)
