"""A masked slot changes nothing: the others are as without it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sanorm_jax.core.errors import UserError
from sanorm_jax.models import masking, normalization
from sanorm_jax.models.attention import ATTENTIONS
from sanorm_jax.models.autoencoder import Autoencoder
from sanorm_jax.models.dinosaur import Dinosaur
from sanorm_jax.models.set_predictor import SetPredictor
from sanorm_jax.models.slot_attention import SlotAttention
from tests.sanorm_jax.models.variables import random_variables

INPUTS = jax.random.normal(jax.random.key(0), (2, 10, 6))
NOISE = jax.random.normal(jax.random.key(3), (2, 4, 8))
# Another slot of each image is masked.
MASK = jnp.array([[True, False, True, True], [True, True, True, False]])


def _kept(x):
    """Return the rows `[B, 3, ...]` of the slots that take part."""
    return jnp.stack([row[mask] for row, mask in zip(x, MASK, strict=True)])


def _assert_masked_slot_changes_nothing(**options):
    model = SlotAttention(4, 8, hidden_dim=16, **options)
    variables = random_variables(model, INPUTS, train=True)

    def run(noise, mask):
        (slots, attention), updated = model.apply(
            variables, INPUTS, train=True, noise=noise, mask=mask, mutable="batch_stats"
        )
        return slots, attention, updated

    slots, attention, updated = run(NOISE, MASK)
    expected_slots, expected_attention, expected_updated = run(_kept(NOISE), None)
    np.testing.assert_allclose(_kept(slots), expected_slots, atol=2e-5)
    np.testing.assert_allclose(_kept(attention), expected_attention, atol=2e-5)
    np.testing.assert_array_equal(attention[~MASK], 0.0)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5),
        updated,
        expected_updated,
    )


@pytest.mark.parametrize("name", [*normalization.NORMALIZATIONS])
def test_with_each_normalization(name):
    _assert_masked_slot_changes_nothing(update_normalization=name)


@pytest.mark.parametrize("name", [*ATTENTIONS])
def test_with_each_attention(name):
    _assert_masked_slot_changes_nothing(attention=name, num_heads=2)


def test_with_token_seeds():
    _assert_masked_slot_changes_nothing(slot_init="tokens")


@pytest.mark.parametrize(
    ("create", "inputs"),
    [
        (lambda slots: Dinosaur(slots, decoder_hidden_dim=8), INPUTS),
        (
            lambda slots: Autoencoder(
                slots, image_size=8, feature_dim=8, decoder="stationary"
            ),
            jax.random.normal(jax.random.key(4), (2, 8, 8, 3)),
        ),
        (
            lambda slots: SetPredictor(slots, image_size=8, feature_dim=8),
            jax.random.normal(jax.random.key(4), (2, 8, 8, 3)),
        ),
    ],
)
def test_with_each_decoder(create, inputs):
    model = create(SlotAttention(4, 8, hidden_dim=16))
    variables = random_variables(model, inputs, train=True)
    out = model.apply(variables, inputs, train=False, noise=NOISE, mask=MASK)
    expected = model.apply(variables, inputs, train=False, noise=_kept(NOISE))
    np.testing.assert_array_equal(out.pop("slot_mask"), MASK)
    for name, value in expected.items():
        per_slot = value.shape[1] == 3 and name != "reconstruction"
        mine = _kept(out[name]) if per_slot else out[name]
        np.testing.assert_allclose(mine, value, atol=2e-5)
    for name in {"masks", "predicted_properties"} & out.keys():
        np.testing.assert_array_equal(out[name][~MASK], 0.0)


def test_gradient_past_a_masked_slot_is_finite():
    logits = jnp.array([[[0.0], [100.0], [-3.0]]])
    mask = jnp.array([[1.0, 0.0, 1.0]])

    def loss(logits, mask):
        return jnp.square(masking.softmax(logits, mask)).sum()

    to_logits, to_mask = jax.grad(loss, argnums=(0, 1))(logits, mask)
    assert np.isfinite(to_logits).all() and np.isfinite(to_mask).all()
    assert to_logits[0, 1] == 0
    assert (to_mask != 0).all()


def test_softmax_without_inactive_slots_is_the_plain_softmax():
    logits = jax.random.normal(jax.random.key(0), (2, 4, 5))
    masked = masking.softmax(logits, jnp.ones((2, 4)))
    np.testing.assert_allclose(masked, jax.nn.softmax(logits, axis=1), atol=1e-6)


@pytest.mark.parametrize(
    ("mask", "words"),
    [
        (jnp.ones((2, 3), bool), "mask: has shape (2, 3), not (2, 4)"),
        (MASK.at[1].set(False), "mask: image 1 has no active slot"),
    ],
)
def test_invalid_masks_are_rejected(mask, words):
    model = SlotAttention(4, 8, hidden_dim=16)
    variables = random_variables(model, INPUTS, train=True)
    with pytest.raises(UserError) as caught:
        model.apply(variables, INPUTS, train=False, noise=NOISE, mask=mask)
    assert words in str(caught.value)
