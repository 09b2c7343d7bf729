"""What a segmentation scores without learning, and at most at a token resolution."""

import jax
import jax.numpy as jnp
import numpy as np

from sanorm_jax.core.errors import UserError
from sanorm_jax.metrics.segmentation import upscale_segmentation


def block_segmentation(size: int, num_slots: int) -> np.ndarray:
    """Cut the image into `num_slots` blocks, in rows of nearly equal numbers.

    A model that looks at position alone can do as much; scores below it are no
    segmentation into objects.

    Args:
      size: Side of the label map, in pixels.
      num_slots: Number of blocks.

    Returns:
      int32 `[size, size]`, 0 to `num_slots` - 1.

    Raises:
      UserError: for sizes or numbers of slots below 1.
    """
    if size < 1 or num_slots < 1:
        raise UserError(f"size {size} and num_slots {num_slots} must be 1 or more")
    num_rows = round(num_slots**0.5)
    # Slots of each row of blocks, e.g. 7 slots: 2 + 2 + 3
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
    """Segment by the true label that is most frequent within each token.

    No assignment of whole tokens to slots can be expected to score much higher, so
    this is the room that a model with such tokens has.

    Args:
      labels: True labels `[B, H, W]`, 0 to `num_labels` - 1.
      side: Rows and columns of tokens.
      size: Side of the result, in pixels.
      num_labels: Number of true labels, the background included.
      ignore_background: For FG-ARI, which does not count the background: a token
        goes to its largest object, be the background larger or not.

    Returns:
      int32 `[B, size, size]`.
    """
    _, H, W = labels.shape

    def pool(length):
        # [side, length]: share of each pixel in each token
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
    return upscale_segmentation(maps, size)
