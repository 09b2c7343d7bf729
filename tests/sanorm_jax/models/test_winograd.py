import jax.numpy as jnp
import numpy as np
import pytest

from sanorm_jax.models import convolution, winograd


@pytest.mark.parametrize("num_taps", range(2, winograd.MAX_TAPS + 1))
def test_four_outputs_match_a_correlation(num_taps):
    rng = np.random.default_rng(num_taps)
    inputs = rng.standard_normal(num_taps + 3)
    kernel = rng.standard_normal(num_taps)
    of_products, of_kernel, of_inputs = winograd.transforms(num_taps)
    actual = of_products @ ((of_kernel @ kernel) * (of_inputs @ inputs))
    np.testing.assert_allclose(actual, np.correlate(inputs, kernel), atol=1e-12)


@pytest.mark.parametrize("num_taps", range(2, winograd.MAX_TAPS + 1))
def test_float32_error_is_within_rounding(num_taps):
    """Against float64, over sums of 64 channels, beside XLA's own error."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((1, 8, 16, 64)).astype(np.float32)
    kernel = rng.standard_normal((num_taps, num_taps, 64, 16)).astype(np.float32)
    before = (num_taps - 1) // 2
    padding = ((before, num_taps - 1 - before),) * 2
    padded = np.pad(x.astype(float), ((0, 0), *padding, (0, 0)))
    exact = sum(
        padded[:, i : i + 8, j : j + 16] @ kernel[i, j].astype(float)
        for i in range(num_taps)
        for j in range(num_taps)
    )
    assert winograd.applies(jnp.asarray(x), kernel, padding)
    ours = winograd.correlate(x, kernel, padding, convolution._xla_conv)
    plain = convolution._xla_conv(x, kernel, padding)
    error, usual = (np.abs(y - exact).max() / exact.std() for y in (ours, plain))
    assert error < 2e-5
    assert error < 20 * usual


def test_it_applies_only_to_supported_convolutions():
    x, kernel = jnp.zeros((1, 8, 8, 16)), jnp.zeros((5, 5, 16, 16))
    same = ((2, 2), (2, 2))
    assert winograd.applies(x, kernel, same)
    assert not winograd.applies(x.astype(jnp.bfloat16), kernel, same)
    assert not winograd.applies(x[:, :, :6], kernel, same)
    assert not winograd.applies(x, kernel[:, :, :, :4], same)
    assert not winograd.applies(x, kernel, ((2, 2), (0, 0)))
