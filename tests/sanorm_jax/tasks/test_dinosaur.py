import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from sanorm_jax import tasks
from sanorm_jax.core.errors import UserError
from sanorm_jax.tasks.dinosaur import slot_diversity
from sanorm_jax.train_step import create_state
from tests import tiny


def _loss(config, step):
    """Return loss, its scalars and its gradient at the initial parameters."""
    dataset = tasks.open_dataset(config)
    task = tasks.create(config, dataset)
    state = create_state(task, optax.identity(), seed=0)
    batch = {
        "features": dataset.read("train", "features", np.arange(4)),
        "position": np.arange(4, dtype=np.int32),
    }

    def loss(params):
        return task.loss(params, state.batch_stats, batch, state.rng, step)

    (value, (_, scalars)), grads = jax.value_and_grad(loss, has_aux=True)(state.params)
    return value, scalars, grads


def test_equal_shares_cost_more_than_a_single_slot():
    one_token_each = jnp.eye(4)[None]
    one_slot = jnp.zeros((1, 4, 4)).at[:, 0].set(1.0)
    unequal = jnp.array([[[1.0, 1, 1, 0], [0, 0, 0, 1]]])
    np.testing.assert_allclose(slot_diversity(one_token_each), [3 / 4])
    np.testing.assert_allclose(slot_diversity(one_slot), [0.0])
    np.testing.assert_allclose(slot_diversity(unequal), [1 - 9 / 16 - 1 / 16])


def test_slot_diversity_is_of_each_image_and_not_of_the_batch():
    """Images that each have one slot of their own cost nothing."""
    masks = jnp.zeros((2, 2, 3)).at[0, 0].set(1.0).at[1, 1].set(1.0)
    np.testing.assert_allclose(slot_diversity(masks), [0.0, 0.0])


def test_share_penalty_is_ramped_in(data_dir):
    config = tiny.config(data_dir, slot_share_penalty=((10, 0.0), (20, 0.5)))
    plain, _, plain_grads = _loss(tiny.config(data_dir), step=15)
    for step, weight in ((0, 0.0), (10, 0.0), (15, 0.25), (20, 0.5), (99, 0.5)):
        loss, scalars, grads = _loss(config, step)
        np.testing.assert_allclose(scalars["slot_share_penalty"], weight)
        np.testing.assert_allclose(scalars["mse"], plain, rtol=1e-6)
        added = weight * scalars["slot_diversity"]
        np.testing.assert_allclose(loss, plain + added, rtol=1e-6)
        changed = optax.global_norm(jax.tree.map(jnp.subtract, grads, plain_grads))
        assert (changed > 1e-6) == (weight > 0)
    # Four slots share the image about equally at first.
    assert 0.7 < scalars["slot_diversity"] <= 0.75


def test_without_share_penalty_there_are_no_scalars(data_dir):
    assert _loss(tiny.config(data_dir), step=5)[1] == {}


def test_share_penalty_without_steps_is_an_error(data_dir):
    with pytest.raises(UserError, match="steps rising"):
        _loss(tiny.config(data_dir, slot_share_penalty=(0.1, 0.2)), step=0)
