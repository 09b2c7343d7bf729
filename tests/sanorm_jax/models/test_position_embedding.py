import jax
import numpy as np
import pytest

from sanorm_jax.core.errors import UserError
from sanorm_jax.models.position_embedding import SoftPositionEmbedding, position_grid

FEATURES = 3 + 2 * jax.random.normal(jax.random.key(0), (2, 5, 5, 6))


def _run(**options):
    module = SoftPositionEmbedding(**options)
    variables = module.init(jax.random.key(1), FEATURES)
    return module.apply(variables, FEATURES), variables.get("params", {})


def test_grid_corners():
    grid = position_grid(3, 5)
    assert grid.shape == (3, 5, 4)
    np.testing.assert_allclose(grid[0, 0], [0, 0, 1, 1])
    np.testing.assert_allclose(grid[2, 0], [1, 0, 0, 1])
    np.testing.assert_allclose(grid[0, 4], [0, 1, 1, 0])
    np.testing.assert_allclose(grid[1, 1], [0.5, 0.25, 0.5, 0.75])


def test_adds_the_projected_grid():
    out, params = _run()
    dense = params["dense"]
    expected = FEATURES + position_grid(5, 5) @ dense["kernel"] + dense["bias"]
    np.testing.assert_allclose(out, expected, rtol=1e-5)


def test_concat_needs_no_parameters():
    out, params = _run(concat=True)
    assert not params
    np.testing.assert_array_equal(out[..., :6], FEATURES)
    np.testing.assert_array_equal(out[1, ..., 6:], position_grid(5, 5))


def test_weight_scales_only_the_embedding():
    out, _ = _run(concat=True, weight=0.25)
    np.testing.assert_array_equal(out[..., :6], FEATURES)
    np.testing.assert_allclose(out[0, ..., 6:], 0.25 * position_grid(5, 5))


def test_normalize_gives_both_unit_moments():
    out, _ = _run(concat=True, normalize=True, weight=2.0)
    features, embedding = np.asarray(out[..., :6]), np.asarray(out[0, ..., 6:])
    np.testing.assert_allclose(features.mean(axis=(1, 2, 3)), 0, atol=1e-5)
    np.testing.assert_allclose(features.std(axis=(1, 2, 3)), 1, rtol=1e-3)
    np.testing.assert_allclose(embedding.mean(), 0, atol=1e-5)
    np.testing.assert_allclose(embedding.std(), 2, rtol=1e-3)


def test_learned_embedding_is_a_parameter():
    out, params = _run(learnable_dim=3)
    assert out.shape == FEATURES.shape
    assert params["embedding"].shape == (5, 5, 3)
    # PyTorch's Glorot bound for [5, 5, 3]: fan in and fan out of 15.
    assert 0.4 < np.abs(params["embedding"]).max() <= (6 / 30) ** 0.5
    concatenated, params = _run(learnable_dim=3, concat=True, normalize=True)
    assert concatenated.shape == (2, 5, 5, 9)
    np.testing.assert_allclose(params["embedding"].mean(), 0, atol=1e-5)


def test_negative_learnable_dim():
    with pytest.raises(UserError, match="learnable_dim=-1"):
        _run(learnable_dim=-1)
