import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import optax
import pytest

from sanorm_jax import optimizers
from sanorm_jax.core.errors import UserError


def _config(**changes):
    return ml_collections.ConfigDict(
        {
            "name": "adam",
            "learning_rate": 0.1,
            "warmup_steps": 10,
            "warmup_start": 0.01,
            "half_life_steps": 20,
            "cosine_steps": 0,
            "epsilon": 1e-8,
            "clip_norm": 0.0,
        }
        | changes
    )


def test_schedule():
    _, schedule = optimizers.create(_config())
    values = jax.jit(jax.vmap(schedule))(np.array([0, 5, 10, 30, 50]))
    np.testing.assert_allclose(values, [0.001, 0.0505, 0.1, 0.05, 0.025], rtol=1e-6)


def test_schedule_without_warmup_and_decay():
    _, schedule = optimizers.create(_config(warmup_steps=0, half_life_steps=0))
    np.testing.assert_allclose(schedule(0), 0.1)
    np.testing.assert_allclose(schedule(10**6), 0.1)


def test_cosine_falls_to_a_tenth_at_its_end():
    config = _config(warmup_steps=10, half_life_steps=0, cosine_steps=110)
    _, schedule = optimizers.create(config)
    values = [float(schedule(step)) for step in (0, 5, 10, 60, 110, 500)]
    np.testing.assert_allclose(values, [0, 0.05, 0.1, 0.055, 0.01, 0.01], rtol=1e-5)
    _, schedule = optimizers.create(_config(**dict(config, warmup_steps=0)))
    np.testing.assert_allclose(schedule(0), 0.1, rtol=1e-6)


@pytest.mark.parametrize("name", optimizers.OPTIMIZERS)
def test_every_optimizer_reaches_a_minimum_at_the_scheduled_rate(name):
    config = _config(name=name, warmup_steps=0, half_life_steps=30)
    tx, _ = optimizers.create(config)
    params = jnp.array([1.0, -2.0])
    state = tx.init(params)
    for _ in range(150):
        updates, state = tx.update(2 * params, state, params)
        params = optax.apply_updates(params, updates)
    np.testing.assert_allclose(params, 0, atol=0.05)


def test_epsilon_of_adam_tf_is_added_before_the_correction():
    """Adam's first step divides by g + eps, TensorFlow's by g + eps / 0.001**0.5."""
    grad, eps = jnp.array([1e-3]), 1e-3
    for name, factor in (("adam", 1.0), ("adam_tf", 0.001**-0.5)):
        config = _config(name=name, epsilon=eps, warmup_steps=0, learning_rate=1.0)
        tx, _ = optimizers.create(config)
        update, _ = tx.update(grad, tx.init(grad), grad)
        np.testing.assert_allclose(
            update, -1e-3 / (1e-3 + factor * eps), rtol=1e-3, err_msg=name
        )


def test_clipping_bounds_the_global_norm():
    config = _config(name="sgd", clip_norm=0.5, warmup_steps=0, learning_rate=1.0)
    tx, _ = optimizers.create(config)
    grads = {"a": jnp.array([3.0]), "b": jnp.array([4.0])}
    updates, _ = tx.update(grads, tx.init(grads), grads)
    np.testing.assert_allclose(updates["a"], -0.3, rtol=1e-6)
    np.testing.assert_allclose(updates["b"], -0.4, rtol=1e-6)


def test_piecewise_linear():
    weight = optimizers.piecewise_linear(((100, 1.0), (200, 3.0), (300, 0.0)))
    steps = np.array([0, 100, 150, 200, 250, 300, 10**6])
    np.testing.assert_allclose(
        jax.jit(jax.vmap(weight))(steps), [1, 1, 2, 3, 1.5, 0, 0], rtol=1e-6
    )
    np.testing.assert_allclose(optimizers.piecewise_linear(0.5)(7), 0.5)
    np.testing.assert_allclose(optimizers.piecewise_linear(((0, 2.0),))(7), 2)


@pytest.mark.parametrize(
    "knots", [(), "soon", ((0, 1.0), (0, 2.0)), ((5, 1.0), (0, 2.0)), ((0, 1, 2),)]
)
def test_invalid_knots_are_rejected(knots):
    with pytest.raises(UserError, match="steps rising"):
        optimizers.piecewise_linear(knots)


@pytest.mark.parametrize(
    ("name", "value"), [("name", "lion"), ("learning_rate", 0.0), ("warmup_steps", -1)]
)
def test_options_out_of_range(name, value):
    with pytest.raises(UserError, match=f"config.optimizer.{name}={value!r}: "):
        optimizers.create(_config(**{name: value}))
