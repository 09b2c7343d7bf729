import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sanorm_jax.models import convolution


def _arrays(size, kernel_size, channels=(3, 4)):
    rng = np.random.default_rng(0)
    x = rng.standard_normal((2, size, size + 2, channels[0])).astype(np.float32)
    kernel = rng.standard_normal((kernel_size, kernel_size, *channels))
    return x, kernel.astype(np.float32)


def _with_gradients(function, x, kernel):
    y, vjp = jax.vjp(function, x, kernel)
    return [y, *vjp(jnp.cos(y))]


# Few channels; what becomes one matrix product; what `winograd` takes.
@pytest.mark.parametrize(
    ("channels", "atol"), [((3, 4), 1e-4), ((16, 4), 1e-4), ((16, 17), 5e-4)]
)
@pytest.mark.parametrize("kernel_size", [3, 5])
@pytest.mark.parametrize(
    "function",
    [
        convolution.conv,
        functools.partial(convolution.conv, stride=2),
        convolution.upsampling_conv,
    ],
    ids=["conv", "strided", "upsampling"],
)
def test_cpu_and_xla_convolutions_agree(
    monkeypatch, function, kernel_size, channels, atol
):
    """The CPU's way, kernel gradients in halves, against XLA's, with gradients."""
    monkeypatch.setattr(convolution, "MAX_TAPS", 1)
    x, kernel = _arrays(6, kernel_size, channels)
    results = []
    for tuned in (False, True):
        monkeypatch.setattr(convolution, "tuned_for_cpu", lambda tuned=tuned: tuned)
        # Another function each time, since jit would remember the first trace.
        run = jax.jit(lambda x, k, tuned=tuned: _with_gradients(function, x, k))
        results.append(run(x, kernel))
    for actual, expected in zip(*results, strict=True):
        np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=atol)


def test_chunks_of_a_batch_equal_the_whole_batch(monkeypatch):
    """Parts get smaller as images grow; outputs and gradients stay."""
    x, kernel = _arrays(6, 5, (4, 4))
    x = np.concatenate([x, 2 * x, 3 * x])[:5]
    sizes = []

    def layers(x, kernel):
        def upsample(x):
            sizes.append(len(x))
            return jnp.sin(convolution.upsampling_conv(x, kernel))

        return convolution.in_pieces([upsample, upsample], x)

    results = []
    for piece_pixels in (10**6, 2 * x[0, ..., 0].size):
        monkeypatch.setattr(convolution, "PIECE_PIXELS", piece_pixels)
        results.append(_with_gradients(layers, x, kernel))
    assert sizes == [5, 5] + [2, 2, 1] + [1] * 5
    for actual, expected in zip(*results, strict=True):
        np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-4)


def test_upsampling_inserts_zeros_and_correlates():
    x, kernel = _arrays(3, 5)
    wide = np.zeros((2, 6 + 4, 10 + 4, 3), np.float32)
    wide[:, 2:8:2, 2:12:2] = x
    expected = np.zeros((2, 6, 10, 4))
    for i in range(5):
        for j in range(5):
            expected += wide[:, i : i + 6, j : j + 10] @ kernel[i, j]
    np.testing.assert_allclose(
        convolution.upsampling_conv(x, kernel), expected, rtol=1e-4, atol=1e-4
    )


@pytest.mark.parametrize("kernel_size", [3, 4, 5])
def test_conv_keeps_the_size(kernel_size):
    x, kernel = _arrays(5, kernel_size)
    assert convolution.conv(x, kernel).shape == (2, 5, 7, 4)


def test_strided_conv_of_an_odd_size():
    x, kernel = _arrays(5, 5)
    whole = convolution.conv(x, kernel)
    np.testing.assert_allclose(
        convolution.conv(x, kernel, stride=2), whole[:, ::2, ::2], rtol=1e-4, atol=1e-4
    )
