import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sanorm_jax.core.errors import UserError
from sanorm_jax.models import initial_slots
from sanorm_jax.models.slot_attention import SlotAttention
from tests.sanorm_jax.models.variables import random_variables

INPUTS = jax.random.normal(jax.random.key(0), (2, 10, 6))
NOISE = jax.random.normal(jax.random.key(3), (2, 4, 8))


def _init(**options):
    model = SlotAttention(4, 8, hidden_dim=16, **options)
    return model, random_variables(model, INPUTS, train=True)


def _gradient(model, variables):
    def loss(params):
        slots, _ = model.apply({"params": params}, INPUTS, train=True, noise=NOISE)
        return jnp.square(slots).sum()

    return jax.grad(loss)(variables["params"])


def test_seeds_of_separate_clusters_are_one_of_each():
    """Wherever the draws fall: a token at distance 0 is never drawn."""
    centers = 100.0 * jnp.arange(4)
    tokens = jnp.repeat(centers, 8)[None, :, None]
    for seed in range(20):
        noise = jax.random.normal(jax.random.key(seed), (1, 4))
        seeds = initial_slots.kmeans_plus_plus(tokens, noise)
        assert set((seeds[0] // 8).tolist()) == {0, 1, 2, 3}


def test_seeds_are_drawn_by_their_squared_distance():
    """After a first seed at 0, tokens at 1 and 2 are drawn one time to four."""
    tokens = jnp.broadcast_to(jnp.array([0.0, 1.0, 2.0])[:, None], (4000, 3, 1))
    noise = jax.random.normal(jax.random.key(0), (4000, 2)).at[:, 0].set(-9.0)
    seeds = initial_slots.kmeans_plus_plus(tokens, noise)
    assert not np.any(seeds[:, 0])
    counts = np.bincount(seeds[:, 1], minlength=3)
    np.testing.assert_allclose(counts / 4000, [0.0, 0.2, 0.8], atol=0.02)


def test_tokens_initialize_any_number_of_slots():
    model, variables = _init(slot_init="tokens")
    for num_slots in (2, 4, 9):
        noise = jax.random.normal(jax.random.key(1), (2, num_slots, 8))
        slots, _ = model.apply(variables, INPUTS, train=False, noise=noise)
        assert slots.shape == (2, num_slots, 8)
        assert np.isfinite(slots).all()
    assert np.any(_gradient(model, variables)["to_slots"])


@pytest.mark.parametrize("name", ["learned", "bo_qsa"])
def test_queries_are_the_same_for_all_images_and_noise(name):
    model, variables = _init(slot_init=name)
    inputs = jnp.repeat(INPUTS[:1], 2, axis=0)
    slots, _ = model.apply(variables, inputs, train=False, noise=NOISE)
    np.testing.assert_array_equal(slots[0], slots[1])


@pytest.mark.parametrize("name", ["learned", "bo_qsa"])
def test_another_number_of_slots_than_queries_is_an_error(name):
    model, variables = _init(slot_init=name)
    with pytest.raises(UserError, match=f"num_slots=5: slot_init={name} has 4 queries"):
        model.apply(variables, INPUTS, train=False, noise=jnp.zeros((2, 5, 8)))


def test_gradient_of_bo_qsa_reaches_the_queries_past_the_iterations():
    """It is that of the last iteration's input, for every number of iterations."""
    model, variables = _init(slot_init="bo_qsa")
    learned, _ = _init(slot_init="learned")
    implicit, _ = _init(slot_init="learned", implicit=True)
    start, _ = learned.apply(
        variables, INPUTS, train=True, noise=NOISE, num_iterations=2
    )

    def last(start):
        slots, _ = learned.apply(
            variables, INPUTS, train=True, initial_slots=start, num_iterations=1
        )
        return jnp.square(slots).sum()

    grads = _gradient(model, variables)
    # [K, D]: a query serves all images.
    expected = jax.grad(last)(start).sum(0)
    np.testing.assert_allclose(grads["slots_queries"], expected, rtol=1e-4, atol=1e-4)
    # All other gradients are those of the implicit gradient, which leaves the queries.
    others = _gradient(implicit, variables)
    assert not np.any(others.pop("slots_queries"))
    grads.pop("slots_queries")
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4),
        grads,
        others,
    )


def test_bo_qsa_and_learned_queries_compute_the_same_slots():
    model, variables = _init(slot_init="bo_qsa")
    learned, _ = _init(slot_init="learned")
    ours, theirs = (
        m.apply(variables, INPUTS, train=True, noise=NOISE)[0] for m in (model, learned)
    )
    np.testing.assert_allclose(ours, theirs, atol=1e-5)
