import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sanorm_jax.models import attention
from sanorm_jax.models.slot_attention import SlotAttention
from tests.sanorm_jax.models.variables import random_variables

INPUTS = jax.random.normal(jax.random.key(0), (2, 10, 6))
NOISE = jax.random.normal(jax.random.key(3), (2, 4, 8))


@pytest.mark.parametrize("shares", [(0.25,) * 4, (0.1, 0.2, 0.3, 0.4)])
def test_marginals_of_sinkhorn_hold(shares):
    logits = jax.random.normal(jax.random.key(1), (2, 4, 64))
    log_shares = jnp.log(jnp.broadcast_to(jnp.array(shares), (2, 4)))
    plan = attention.sinkhorn(logits, log_shares)
    np.testing.assert_allclose(plan.sum(1), np.ones((2, 64)), atol=1e-5)
    np.testing.assert_allclose(plan.mean(2), jnp.exp(log_shares), atol=1e-5)


def test_sinkhorn_keeps_the_order_of_softmax_within_a_slot():
    """A plan is the logits, scaled for each slot and each token."""
    logits = jax.random.normal(jax.random.key(1), (1, 3, 5))
    ratio = jnp.log(attention.sinkhorn_uniform(logits, None)) - logits
    # Without a term of slot and token together: all 2 x 2 interactions vanish.
    interactions = ratio[:, 1:, 1:] - ratio[:, :1, 1:] - ratio[:, 1:, :1]
    np.testing.assert_allclose(interactions + ratio[:, :1, :1], 0.0, atol=1e-4)


def test_learned_marginals_start_uniform_and_receive_a_gradient():
    models = [
        SlotAttention(4, 8, hidden_dim=16, attention=name)
        for name in ("sinkhorn", "sinkhorn_learned")
    ]
    rngs = {"params": jax.random.key(1), "slots": jax.random.key(2)}
    params = models[1].init(rngs, INPUTS, train=True)["params"]
    shared = {name: value for name, value in params.items() if name != "marginals"}
    uniform, _ = models[0].apply({"params": shared}, INPUTS, train=False, noise=NOISE)

    def loss(params):
        slots, _ = models[1].apply({"params": params}, INPUTS, train=True, noise=NOISE)
        return jnp.square(slots).sum(), slots

    grads, slots = jax.grad(loss, has_aux=True)(params)
    np.testing.assert_allclose(slots, uniform, atol=1e-5)
    assert np.any(grads["marginals"]["share"])


def test_heads_attend_with_their_own_queries():
    """Two heads with the same weights are one head of half the dimension."""
    one = SlotAttention(4, 8, hidden_dim=16, common_dim=4, num_iterations=1)
    two = one.clone(common_dim=8, num_heads=2)
    variables = random_variables(two, INPUTS, train=True)
    params = dict(variables["params"])
    for name in ("to_q", "to_k", "to_v"):
        params[name] = np.tile(params[name][:, :4], 2)
    half = params | {name: params[name][:, :4] for name in ("to_q", "to_k", "to_v")}
    kernel = params["gru"]["kernel"]
    half["gru"] = dict(params["gru"], kernel=kernel[:4] + kernel[4:])
    expected = one.apply({"params": half}, INPUTS, train=False, noise=NOISE)
    ours = two.apply({"params": params}, INPUTS, train=False, noise=NOISE)
    for a, b in zip(ours, expected, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)


@pytest.mark.parametrize("name", ["weighted_mean", "batch_norm", "layer_norm"])
def test_attention_of_several_heads_sums_to_one(name):
    model = SlotAttention(4, 8, hidden_dim=16, num_heads=4, update_normalization=name)
    variables = random_variables(model, INPUTS, train=True)
    slots, maps = model.apply(variables, INPUTS, train=False, noise=NOISE)
    assert slots.shape == (2, 4, 8)
    np.testing.assert_allclose(maps.sum(1), np.ones((2, 10)), atol=1e-5)
