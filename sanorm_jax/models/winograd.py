"""Convolutions with fewer multiplications than taps.

Winograd's minimal filtering, after Lavin and Gray, "Fast Algorithms for Convolutional
Neural Networks" (CVPR 2016, arXiv 1509.09308), along rows of pixels: four outputs of a
kernel five wide need 8 products instead of 20, of one three wide 6 instead of 12. Along
columns nothing is changed, so that the transforms, which pass over memory, stay small
beside the products that they save.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np

OUTPUTS = 4  # of a tile
# Transforms of fewer channels cost more than they save.
MIN_CHANNELS = 16
# Where polynomials are evaluated: as many of these as are needed, and at infinity.
_POINTS = (0, 1, -1, 2, -2, 0.5, -0.5)
MAX_TAPS = len(_POINTS) + 2 - OUTPUTS


@functools.cache
def transforms(num_taps: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return A, G and B of: four outputs = A (G kernel * B inputs).

    A product of polynomials is known from its values at as many points as it has
    coefficients (Toom and Cook); correlation is the transposed map.

    Args:
      num_taps: t of the kernel.

    Returns:
      `[4, t + 3]`, `[t + 3, t]` and `[t + 3, t + 3]`, float64.
    """
    num_products = OUTPUTS + num_taps - 1
    points = np.array(_POINTS[: num_products - 1], float)

    def values(num_coefficients):
        at = np.power.outer(points, np.arange(num_coefficients))
        return np.vstack([at, np.eye(num_coefficients)[-1]])

    inputs = np.linalg.inv(values(num_products)).T
    inputs[np.abs(inputs) < 1e-12] = 0
    # Rows of like size lose the fewest bits.
    scale = np.abs(inputs).max(axis=1, keepdims=True)
    return values(OUTPUTS).T, values(num_taps) * scale, inputs / scale


def applies(x: jax.Array, kernel: jax.Array, padding) -> bool:
    """Return whether `correlate` can take these, and is worth it."""
    return (
        x.dtype == jnp.float32  # a shorter type would lose what it has of precision
        and 1 < kernel.shape[1] <= MAX_TAPS
        and sum(padding[1]) == kernel.shape[1] - 1
        and x.shape[2] % OUTPUTS == 0
        and min(kernel.shape[2:]) >= MIN_CHANNELS
    )


def correlate(x: jax.Array, kernel: jax.Array, padding, conv) -> jax.Array:
    """Correlate images with a kernel at stride 1.

    Args:
      x: images `[B, H, W, C]`, W a multiple of 4.
      kernel: `[k, t, C, F]`.
      padding: zeros before and after the rows, and, t - 1 together, the columns.
      conv: the plain convolution of x, kernel and padding that does the products.

    Returns:
      `[B, H', W, F]`.
    """
    B, H, W, C = x.shape
    of_products, of_kernel, of_inputs = (
        matrix.astype(x.dtype) for matrix in transforms(kernel.shape[1])
    )
    # [t + 3, k, 1, C, F]
    kernels = jnp.einsum("pj,ijcf->picf", of_kernel, kernel)[:, :, None]
    x = jnp.pad(x, ((0, 0), (0, 0), padding[1], (0, 0)))
    end = W - OUTPUTS + 1
    # t + 3 arrays [B, H, W / 4, C]: pixel j of each tile
    pixels = [
        jax.lax.slice(x, (0, 0, j, 0), (B, H, j + end, C), (1, 1, OUTPUTS, 1))
        for j in range(len(of_inputs))
    ]
    # t + 3 arrays [B, H', W / 4, F]
    products = [
        conv(_combine(row, pixels), kernels[p], (padding[0], (0, 0)))
        for p, row in enumerate(of_inputs)
    ]
    # [B, H', W / 4, 4, F]
    y = jnp.stack([_combine(row, products) for row in of_products], axis=3)
    return y.reshape(*y.shape[:2], W, -1)


def _combine(factors: np.ndarray, arrays: list[jax.Array]) -> jax.Array:
    terms = [
        array if factor == 1 else factor * array
        for factor, array in zip(factors, arrays, strict=True)
        if factor
    ]
    return sum(terms[1:], terms[0])
