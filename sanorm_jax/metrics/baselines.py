"""Baseline segmentations: a grid of blocks, and the true labels of tokens."""

import jax
import jax.numpy as jnp
import numpy as np

from sanorm_jax.metrics.segmentation import upscale_segmentation


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
    return upscale_segmentation(maps, size)
