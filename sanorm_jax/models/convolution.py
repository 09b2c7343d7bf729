"""Convolutions over NHWC images, with the borders of the reference.

XLA's CPU backend has fast code for plain convolutions alone: with holes in the input
(upsampling, and the gradient of a stride) it takes 30 times as long. There such
convolutions are made of plain ones, one for each phase of the pixels. It also takes
twice as long for the kernel's gradient over many pixels as over a few at a time, so
there that gradient is summed over pieces of the batch. Elsewhere XLA's own
convolutions are used. `tuned_for_cpu` is the one place that decides.
"""

import functools

import jax
import jax.numpy as jnp

DIMENSIONS = ("NHWC", "HWIO", "NHWC")


# Of the pieces that the kernel's gradient is summed over.
PIECE_PIXELS = 2 * 128 * 128
MAX_PIECES = 32


def tuned_for_cpu() -> bool:
    """Tell whether convolutions are put together for XLA's CPU backend."""
    return jax.default_backend() == "cpu"


def conv(x: jax.Array, kernel: jax.Array, stride: int = 1) -> jax.Array:
    """Correlate images with a kernel, zeros outside the image.

    Args:
      x: images `[B, H, W, C]`.
      kernel: `[k, k, C, F]`.
      stride: distance of output pixels in the input.

    Returns:
      `[B, ceil(H / stride), ceil(W / stride), F]`.
    """
    even = x.shape[1] % 2 == 0 and x.shape[2] % 2 == 0
    if stride == 2 and even and tuned_for_cpu():
        return conv_by_phases(x, kernel)
    return _plain(x, kernel, _same(kernel), (stride, stride))


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
    if tuned_for_cpu():
        return upsampling_conv_by_phases(x, kernel)
    # One zero more at the end stands for the last row and column of zeros.
    padding = [(before, after + 1) for before, after in _same(kernel)]
    return jax.lax.conv_general_dilated(
        x, kernel, (1, 1), padding, lhs_dilation=(2, 2), dimension_numbers=DIMENSIONS
    )


def conv_by_phases(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Return `conv(x, kernel, stride=2)`, for H and W even.

    Output o reads input 2 o + t - p at tap t, p zeros before. Input pixels of one
    phase q, 2 j + q, meet every second tap, as in a plain convolution.
    """
    rows, columns = (_phases(kernel.shape[axis], outputs=False) for axis in (0, 1))
    return sum(
        _plain(x[:, i::2, j::2], kernel[row::2, column::2], (row_zeros, column_zeros))
        for i, (row, row_zeros) in enumerate(rows)
        for j, (column, column_zeros) in enumerate(columns)
    )


def upsampling_conv_by_phases(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Return `upsampling_conv(x, kernel)` without multiplying zeros.

    Output 2 m + r reads input m + d at tap 2 d - r + p, p zeros before. Outputs of
    one phase r meet every second tap, as in a plain convolution.
    """
    B, H, W, _ = x.shape
    rows, columns = (_phases(kernel.shape[axis], outputs=True) for axis in (0, 1))
    # [B, H, W, F] for each of the four phases
    phases = [
        _plain(x, kernel[row::2, column::2], (row_zeros, column_zeros))
        for row, row_zeros in rows
        for column, column_zeros in columns
    ]
    y = jnp.stack(phases, axis=3).reshape(B, H, W, 2, 2, -1)
    return y.transpose(0, 1, 3, 2, 4, 5).reshape(B, 2 * H, 2 * W, -1)


def _phases(size: int, outputs: bool) -> list[tuple[int, tuple[int, int]]]:
    """Return for phases 0 and 1 the first tap, and the zeros before and after.

    Args:
      size: taps of the kernel along the axis.
      outputs: whether the phase is that of the output pixels, else of the input's.
    """
    zeros = (size - 1) // 2
    result = []
    for phase in (0, 1):
        shift = phase - zeros if outputs else -phase - zeros
        first = shift % 2
        start = (first + shift) // 2
        num_taps = len(range(first, size, 2))
        result.append((first, (-start, start + num_taps - 1)))
    return result


def _plain(x, kernel, padding, strides=(1, 1)):
    if strides == (1, 1) and tuned_for_cpu():
        return _conv_with_gradient_in_pieces(x, kernel, tuple(padding))
    return _xla_conv(x, kernel, padding, strides)


def _xla_conv(x, kernel, padding, strides=(1, 1)):
    return jax.lax.conv_general_dilated(
        x, kernel, strides, padding, dimension_numbers=DIMENSIONS
    )


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _conv_with_gradient_in_pieces(x, kernel, padding):
    return _xla_conv(x, kernel, padding)


def _forward(x, kernel, padding):
    return _xla_conv(x, kernel, padding), (x, kernel)


def _backward(padding, residuals, grad_y):
    x, kernel = residuals
    _, vjp_x = jax.vjp(lambda x: _xla_conv(x, kernel, padding), x)
    B, H, W, _ = x.shape
    size = max(1, PIECE_PIXELS // (H * W), -(-B // MAX_PIECES))
    grad_kernel = 0
    for start in range(0, B, size):
        piece = slice(start, start + size)
        _, vjp_kernel = jax.vjp(lambda k, p=piece: _xla_conv(x[p], k, padding), kernel)
        grad_kernel += vjp_kernel(grad_y[piece])[0]
    return *vjp_x(grad_y), grad_kernel


_conv_with_gradient_in_pieces.defvjp(_forward, _backward)


def _same(kernel: jax.Array) -> list[tuple[int, int]]:
    """Return the zeros before and after each axis that keep its size."""
    return [((size - 1) // 2, size // 2) for size in kernel.shape[:2]]
