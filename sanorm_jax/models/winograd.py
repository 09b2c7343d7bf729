"""Convolutions with Winograd's minimal filtering, which needs fewer multiplications.

Source: Lavin and Gray, "Fast Algorithms for Convolutional Neural Networks" (CVPR 2016,
arXiv 1509.09308). Minimal filtering is applied along rows of pixels only. Four outputs
of a kernel of width 5 then need 8 products instead of 20, and those of a kernel of
width 3 need 6 instead of 12. The transforms are limited by memory. Along one axis, they
cost little compared with the products that they save.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np

OUTPUTS = 4  # outputs per tile
# With fewer channels, the transforms cost more than they save.
MIN_CHANNELS = 16
# Points at which the polynomials are evaluated, in addition to infinity. Small kernels
# use only the first ones.
_POINTS = (0, 1, -1, 2, -2, 0.5, -0.5)
MAX_TAPS = len(_POINTS) + 2 - OUTPUTS


@functools.cache
def transforms(num_taps: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the matrices A, G and B of `four outputs = A (G kernel * B inputs)`.

    As in the Toom-Cook algorithm, a product of polynomials is determined by its values
    at as many points as it has coefficients. Correlation is the transpose of this map.

    Args:
      num_taps: Width t of the kernel.

    Returns:
      A `[4, t + 3]`, G `[t + 3, t]` and B `[t + 3, t + 3]`, float64.
    """
    num_products = OUTPUTS + num_taps - 1
    points = np.array(_POINTS[: num_products - 1], float)

    def values(num_coefficients):
        at = np.power.outer(points, np.arange(num_coefficients))
        return np.vstack([at, np.eye(num_coefficients)[-1]])

    inputs = np.linalg.inv(values(num_products)).T
    inputs[np.abs(inputs) < 1e-12] = 0
    # Rows of similar magnitude lose the least precision.
    scale = np.abs(inputs).max(axis=1, keepdims=True)
    return values(OUTPUTS).T, values(num_taps) * scale, inputs / scale


def applies(x: jax.Array, kernel: jax.Array, padding) -> bool:
    """Return whether `correlate` supports these arguments and is faster."""
    return (
        x.dtype == jnp.float32  # too inaccurate in shorter types
        and 1 < kernel.shape[1] <= MAX_TAPS
        and sum(padding[1]) == kernel.shape[1] - 1
        and x.shape[2] % OUTPUTS == 0
        and min(kernel.shape[2:]) >= MIN_CHANNELS
    )


def correlate(x: jax.Array, kernel: jax.Array, padding, conv) -> jax.Array:
    """Correlate images with a kernel at stride 1.

    Args:
      x: Images `[B, H, W, C]`, W a multiple of 4.
      kernel: Kernel `[k, t, C, F]`.
      padding: Numbers of zeros (before, after) along H and along W. Those along W sum
        to t - 1.
      conv: Plain convolution `(x, kernel, padding)` that computes the products.

    Returns:
      Feature maps `[B, H', W, F]`.
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
