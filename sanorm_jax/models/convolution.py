"""Convolutions over NHWC images, with the borders of the reference."""

import jax

DIMENSIONS = ("NHWC", "HWIO", "NHWC")


def conv(x: jax.Array, kernel: jax.Array, stride: int = 1) -> jax.Array:
    """Correlate images with a kernel, zeros outside the image.

    Args:
      x: images `[B, H, W, C]`.
      kernel: `[k, k, C, F]`.
      stride: distance of output pixels in the input.

    Returns:
      `[B, ceil(H / stride), ceil(W / stride), F]`.
    """
    return jax.lax.conv_general_dilated(
        x, kernel, (stride, stride), _same(kernel), dimension_numbers=DIMENSIONS
    )


def upsampling_conv(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Double the size by zeros between the pixels, then correlate with a kernel.

    The reference's `up_convolve` (Laina et al. 2016, arXiv 1606.00373) does just
    this; PyTorch's `ConvTranspose2d(kernel_size=5, stride=2, padding=2,
    output_padding=1)` does it with the kernel flipped.

    Args:
      x: images `[B, H, W, C]`.
      kernel: `[k, k, C, F]`, k odd.

    Returns:
      `[B, 2 H, 2 W, F]`.
    """
    # One zero more at the end stands for the last row and column of zeros.
    padding = [(before, after + 1) for before, after in _same(kernel)]
    return jax.lax.conv_general_dilated(
        x, kernel, (1, 1), padding, lhs_dilation=(2, 2), dimension_numbers=DIMENSIONS
    )


def _same(kernel: jax.Array) -> list[tuple[int, int]]:
    """Return the zeros before and after each axis that keep its size."""
    return [((size - 1) // 2, size // 2) for size in kernel.shape[:2]]
