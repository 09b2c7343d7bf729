"""Convolutions over NHWC images, with the padding of the original implementation.

XLA's CPU backend is fast only for plain convolutions (stride 1, no dilation). Dilated
inputs, which upsampling and gradients of strided convolutions need, take 30 times as
long. On CPUs, this module therefore

  - splits such a convolution into plain ones, one for each phase of the pixels,
  - computes plain convolutions and their input gradients by `winograd` where possible,
  - passes each chunk of a batch through all layers separately.

Elsewhere, it uses XLA's own convolutions. `tuned_for_cpu` selects between the two.
"""

import functools
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp

from sanorm_jax.models import winograd

DIMENSIONS = ("NHWC", "HWIO", "NHWC")

# Approximate number of pixels in a chunk of a batch. A chunk fits into the cache, and
# several chunks occupy all cores.
PIECE_PIXELS = 64 * 64
MAX_PIECES = 32
# Above this product of kernel size and number of pixels, kernel gradients are computed
# in two halves, because XLA distributes operations, not parts of one, over the cores.
MAX_TAPS = 2**16
# XLA is slow for this many output channels or fewer.
FEW_CHANNELS = 8


def tuned_for_cpu() -> bool:
    """Return whether convolutions use the methods for XLA's CPU backend."""
    return jax.default_backend() == "cpu"


def in_pieces(functions: Sequence[Callable], x: jax.Array) -> jax.Array:
    """Apply functions of images in sequence, on CPUs separately to each chunk.

    Args:
      functions: Functions from images `[b, ...]` to images `[b, ...]`.
      x: Images `[B, H, W, C]`.

    Returns:
      The images `[B, ...]` that the last function returns.
    """
    pieces = [x]
    for function in functions:
        if tuned_for_cpu():
            pieces = [part for piece in pieces for part in _pieces(piece, len(x))]
        pieces = [function(piece) for piece in pieces]
    return jnp.concatenate(pieces)


def conv(x: jax.Array, kernel: jax.Array, stride: int = 1) -> jax.Array:
    """Correlate images with a kernel, with zero padding.

    Args:
      x: Images `[B, H, W, C]`.
      kernel: Kernel `[k, k, C, F]`.
      stride: Stride along both axes.

    Returns:
      Feature maps `[B, ceil(H / stride), ceil(W / stride), F]`.
    """
    even = x.shape[1] % 2 == 0 and x.shape[2] % 2 == 0
    if stride == 2 and even and tuned_for_cpu():
        return conv_by_phases(x, kernel)
    return _plain(x, kernel, _same(kernel), (stride, stride))


def upsampling_conv(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Insert zeros between the pixels to double the size, then correlate with a kernel.

    This is the `up_convolve` of the original implementation (Laina et al., 3DV 2016,
    arXiv 1606.00373). PyTorch's `ConvTranspose2d(kernel_size=5, stride=2, padding=2,
    output_padding=1)` computes the same with a flipped kernel.

    Args:
      x: Images `[B, H, W, C]`.
      kernel: Kernel `[k, k, C, F]`, k odd.

    Returns:
      Feature maps `[B, 2 H, 2 W, F]`.
    """
    if tuned_for_cpu():
        return upsampling_conv_by_phases(x, kernel)
    # One more zero at the end, because dilation adds none after the last pixel.
    padding = [(before, after + 1) for before, after in _same(kernel)]
    return jax.lax.conv_general_dilated(
        x, kernel, (1, 1), padding, lhs_dilation=(2, 2), dimension_numbers=DIMENSIONS
    )


def conv_by_phases(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Return `conv(x, kernel, stride=2)` for even H and W.

    With p zeros before the image, output o reads input `2 o + t - p` at tap t. The
    input pixels `2 j + q` of one phase q therefore meet every second tap, as in a plain
    convolution.
    """
    rows, columns = (_phases(kernel.shape[axis], outputs=False) for axis in (0, 1))
    B, H, W, C = x.shape
    # The gradient of a split is a concatenation; that of slicing is a sum with zeros.
    x = x.reshape(B, H // 2, 2, W // 2, 2, C)
    # [B, H / 2, W / 2, C] for each pair of phases
    phases = [
        [pixels[:, :, 0, :, 0] for pixels in jnp.split(row, 2, axis=4)]
        for row in jnp.split(x, 2, axis=2)
    ]
    return sum(
        _plain(phases[i][j], kernel[row::2, column::2], (row_zeros, column_zeros))
        for i, (row, row_zeros) in enumerate(rows)
        for j, (column, column_zeros) in enumerate(columns)
    )


def upsampling_conv_by_phases(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Return `upsampling_conv(x, kernel)` without multiplications by zero.

    With p zeros before the image, output `2 m + r` reads input `m + d` at tap
    `2 d - r + p`. The outputs of one phase r therefore meet every second tap, as in a
    plain convolution.
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
    """Return for phases 0 and 1 the first tap and the padding (before, after).

    Args:
      size: Size of the kernel along the axis.
      outputs: Whether phases are those of the output pixels or of the input pixels.
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
        return _tuned_conv(x, kernel, tuple(padding))
    return _xla_conv(x, kernel, padding, strides)


def _xla_conv(x, kernel, padding, strides=(1, 1)):
    return jax.lax.conv_general_dilated(
        x, kernel, strides, padding, dimension_numbers=DIMENSIONS
    )


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _tuned_conv(x, kernel, padding):
    if winograd.applies(x, kernel, padding):
        return winograd.correlate(x, kernel, padding, _xla_conv)
    return _xla_conv(x, kernel, padding)


def _forward(x, kernel, padding):
    return _tuned_conv(x, kernel, padding), (x, kernel)


def _backward(padding, residuals, grad_y):
    x, kernel = residuals
    flipped = kernel[::-1, ::-1].swapaxes(2, 3)
    grad_x = _tuned_conv(grad_y, flipped, _transposed(padding, kernel))
    return grad_x, _kernel_gradient(x, grad_y, kernel, padding)


_tuned_conv.defvjp(_forward, _backward)


def _transposed(padding, kernel):
    """Return the padding of the convolution that computes the input gradient."""
    return tuple(
        (size - 1 - before, size - 1 - after)
        for size, (before, after) in zip(kernel.shape[:2], padding, strict=True)
    )


def _kernel_gradient(x, grad_y, kernel, padding):
    if kernel.shape[3] <= FEW_CHANNELS < kernel.shape[2]:
        return _kernel_gradient_by_matmul(x, grad_y, kernel, padding)
    B, H, W, _ = grad_y.shape
    x = jnp.pad(x, ((0, 0), padding[0], (0, 0), (0, 0)))
    columns = ((0, 0), padding[1])
    taps = kernel.shape[0] * kernel.shape[1] * B * H * W
    rows = -(-H // 2) if taps > MAX_TAPS else H
    total = 0
    for start in range(0, H, rows):
        of_y = grad_y[:, start : start + rows]
        of_x = x[:, start : start + of_y.shape[1] + kernel.shape[0] - 1]
        _, vjp = jax.vjp(lambda k, x=of_x: _xla_conv(x, k, columns), kernel)
        total += vjp(of_y)[0]
    return total


def _kernel_gradient_by_matmul(x, grad_y, kernel, padding):
    """Return the kernel gradient as one matrix product, for few output channels."""
    height, width, C, F = kernel.shape
    H, W = x.shape[1:3]
    grad_y = jnp.pad(grad_y, ((0, 0), *_transposed(padding, kernel), (0, 0)))
    # [B, H, W, height width F], taps in reverse order
    shifted = jnp.concatenate(
        [grad_y[:, i : i + H, j : j + W] for i in range(height) for j in range(width)],
        axis=-1,
    )
    taps = jnp.einsum("bhwc,bhwq->qc", x, shifted).reshape(height, width, F, C)
    return taps[::-1, ::-1].swapaxes(2, 3)


def _pieces(x: jax.Array, batch_size: int) -> list[jax.Array]:
    """Split `x`, which may already be a part of a batch, into chunks."""
    B, H, W, _ = x.shape
    size = max(1, PIECE_PIXELS // (H * W), -(-batch_size // MAX_PIECES))
    sizes = [min(size, B - start) for start in range(0, B, size)]
    return list(jax.lax.split(x, sizes))


def _same(kernel: jax.Array) -> list[tuple[int, int]]:
    """Return the padding (before, after) of each axis that keeps its size."""
    return [((size - 1) // 2, size // 2) for size in kernel.shape[:2]]
