import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sanorm_jax.models import convolution


def _arrays(size, kernel_size, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((2, size, size + 2, 3)).astype(np.float32)
    kernel = rng.standard_normal((kernel_size, kernel_size, 3, 4)).astype(np.float32)
    return x, kernel


def _with_gradients(function, x, kernel):
    y, vjp = jax.vjp(function, x, kernel)
    return [y, *vjp(jnp.cos(y))]


@pytest.mark.parametrize("kernel_size", [3, 5])
@pytest.mark.parametrize("name", ["upsampling_conv", "conv"])
def test_both_ways_agree(monkeypatch, name, kernel_size):
    """Phases against XLA's own convolutions, with gradients."""
    x, kernel = _arrays(6, kernel_size)
    options = {"stride": 2} if name == "conv" else {}
    results = []
    for phases in (False, True):
        monkeypatch.setattr(convolution, "uses_phases", lambda phases=phases: phases)
        results.append(
            _with_gradients(
                lambda x, k: getattr(convolution, name)(x, k, **options), x, kernel
            )
        )
    for actual, expected in zip(*results, strict=True):
        np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-4)


def test_upsampling_is_zeros_between_pixels_and_a_correlation():
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
