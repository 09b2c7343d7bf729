import jax
import jax.numpy as jnp
import numpy as np

from sanorm_jax.models.adaptive import KeepHead
from sanorm_jax.models.dinosaur import Dinosaur
from sanorm_jax.models.slot_attention import SlotAttention
from tests.sanorm_jax.models.variables import random_variables

INPUTS = jax.random.normal(jax.random.key(0), (2, 10, 6))
NOISE = jax.random.normal(jax.random.key(3), (2, 4, 8))
SLOTS = jax.random.normal(jax.random.key(5), (200, 4, 8))


def _head():
    head = KeepHead(16)
    variables = random_variables(head, SLOTS)
    # Probabilities on both sides of one half.
    variables["params"]["mlp"]["out"]["bias"] -= 3.0
    return head, variables


def test_decisions_follow_the_probabilities():
    head, variables = _head()
    noise = jax.random.normal(jax.random.key(6), (200, 4))
    # The same slots for every draw.
    slots = jnp.broadcast_to(SLOTS[:1], SLOTS.shape)
    decisions, probabilities = head.apply(variables, slots, noise)
    assert set(np.unique(np.round(decisions, 5))) == {0.0, 1.0}
    expected = probabilities[0].at[probabilities[0].argmax()].set(1.0)
    np.testing.assert_allclose(decisions.mean(0), expected, atol=0.12)
    certain, _ = head.apply(variables, SLOTS)
    _, probabilities = head.apply(variables, SLOTS)
    likeliest = probabilities == probabilities.max(1, keepdims=True)
    np.testing.assert_array_equal(certain > 0, (probabilities > 0.5) | likeliest)


def test_at_least_one_active_slot_is_kept():
    head, variables = _head()
    variables["params"]["mlp"]["out"]["bias"] -= 50.0
    mask = jnp.ones((200, 4), bool).at[:, 1].set(False)
    decisions, probabilities = head.apply(variables, SLOTS, None, mask)
    np.testing.assert_array_equal(decisions.sum(1), np.ones(200))
    assert not np.any(decisions[:, 1]) and not np.any(probabilities[:, 1])


def test_decoder_and_attention_use_only_kept_slots():
    model = Dinosaur(
        SlotAttention(4, 8, hidden_dim=16, adaptive=True), decoder_hidden_dim=8
    )
    variables = random_variables(model, INPUTS, train=True)
    keep_noise = jnp.array([[9.0, -9.0, 9.0, -9.0], [-9.0, 9.0, 9.0, 9.0]])

    def run(params):
        out = model.apply(
            {"params": params},
            INPUTS,
            train=True,
            noise=NOISE,
            keep_noise=keep_noise,
        )
        return jnp.square(out["reconstruction"]).sum(), out

    grads, out = jax.grad(run, has_aux=True)(variables["params"])
    kept = out["slot_mask"]
    assert 0 < kept.sum() < kept.size
    for name in ("masks", "attention"):
        np.testing.assert_allclose(out[name].sum(1), np.ones((2, 10)), atol=1e-5)
        np.testing.assert_array_equal(out[name][~kept], 0.0)
    # The reconstruction alone tells the head which slots to keep.
    assert np.any(grads["keep"]["mlp"]["out"]["kernel"])
