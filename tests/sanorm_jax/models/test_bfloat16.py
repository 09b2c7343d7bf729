"""Gradients in bfloat16 stay near those in float32, which the parity vectors hold."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sanorm_jax.models.autoencoder import Autoencoder
from sanorm_jax.models.dinosaur import Dinosaur
from sanorm_jax.models.set_predictor import SetPredictor
from sanorm_jax.models.slot_attention import SlotAttention
from tests.sanorm_jax.models.variables import random_variables, with_dtype

SLOTS = SlotAttention(num_slots=3, slot_dim=8, hidden_dim=16)
IMAGES = jax.random.uniform(jax.random.key(0), (2, 16, 16, 3), minval=-1)
FEATURES = jax.random.normal(jax.random.key(0), (2, 12, 10))
DINOSAUR_REMAT = Dinosaur(SLOTS, decoder_hidden_dim=16, remat=True)
PROPERTIES = "predicted_properties"
# Share of the gradient's length; 8 bits of a product are 0.4 %.
MAX_ERROR = 0.1


@pytest.mark.parametrize(
    ("model", "inputs", "output"),
    [
        (Autoencoder(SLOTS, feature_dim=6, image_size=16), IMAGES, "reconstruction"),
        (SetPredictor(SLOTS, feature_dim=6, image_size=16), IMAGES, PROPERTIES),
        (Dinosaur(SLOTS, decoder_hidden_dim=16), FEATURES, "reconstruction"),
        (DINOSAUR_REMAT, FEATURES, "reconstruction"),
    ],
    ids=["autoencoder", "set_predictor", "dinosaur", "dinosaur_remat"],
)
def test_bfloat16_gradients_are_close_to_float32(model, inputs, output):
    params = random_variables(model, inputs, train=True)["params"]
    noise = jax.random.normal(jax.random.key(3), (2, 3, 8))

    def gradient(dtype):
        def loss(params):
            out = with_dtype(model, dtype).apply(
                {"params": params}, inputs, train=True, noise=noise
            )
            assert all(value.dtype == jnp.float32 for value in out.values())
            return jnp.mean(jnp.square(out[output] - 1))

        return jax.tree.leaves(jax.jit(jax.grad(loss))(params))

    exact, rounded = gradient(jnp.float32), gradient(jnp.bfloat16)
    assert all(leaf.dtype == jnp.float32 for leaf in rounded)
    exact, rounded = (
        np.concatenate([np.ravel(leaf) for leaf in leaves])
        for leaves in (exact, rounded)
    )
    error = np.linalg.norm(rounded - exact) / np.linalg.norm(exact)
    # Not zero: else the dtype would have been passed over.
    assert 1e-4 < error < MAX_ERROR
