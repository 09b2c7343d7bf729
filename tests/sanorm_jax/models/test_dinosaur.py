import jax
import jax.numpy as jnp
import numpy as np

from sanorm_jax.models import dinosaur
from sanorm_jax.models.dinosaur import Dinosaur, MLPDecoder
from sanorm_jax.models.slot_attention import SlotAttention
from tests.sanorm_jax.models.variables import random_variables

FEATURES = jax.random.normal(jax.random.key(0), (2, 12, 10))
SLOTS = jax.random.normal(jax.random.key(3), (2, 3, 8))
RNGS = {"params": jax.random.key(1), "slots": jax.random.key(2)}


def _plain_decoder(params, slots):
    """Decode as published: an MLP for each slot and token, mixed at the end."""
    # [B, K, N, D]
    x = slots[:, :, None] + params["positions"]
    for i in range(3):
        weights = params[f"hidden_{i}_kernel"], params[f"hidden_{i}_bias"]
        x = np.maximum(x @ weights[0] + weights[1], 0)
    x = x @ params["out_kernel"] + params["out_bias"]
    masks = np.asarray(jax.nn.softmax(x[..., 0], axis=1))
    return (masks[..., None] * x[..., 1:]).sum(axis=1), masks


def test_rearranged_decoder_equals_the_textbook_form():
    decoder = MLPDecoder(hidden_dim=16)
    variables = random_variables(decoder, SLOTS, 12, 10)
    out, masks = decoder.apply(variables, SLOTS, 12, 10)
    params = jax.tree.map(np.asarray, variables["params"])
    expected, expected_masks = _plain_decoder(params, np.asarray(SLOTS))
    np.testing.assert_allclose(out, expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(masks, expected_masks, rtol=1e-4, atol=1e-6)


def test_remat_does_not_change_results(monkeypatch):
    """In chunks of two tokens: the same outputs and gradients."""
    monkeypatch.setattr(dinosaur, "REMAT_ROWS", 2 * 2 * 3)
    plain, remat = (MLPDecoder(hidden_dim=16, remat=remat) for remat in (False, True))
    variables = random_variables(plain, SLOTS, 12, 10)

    def run(decoder, variables, slots):
        out, masks = decoder.apply(variables, slots, 12, 10)
        return jnp.sum(out**2) + jnp.sum(masks**2), (out, masks)

    results = [
        jax.value_and_grad(run, argnums=(1, 2), has_aux=True)(decoder, variables, SLOTS)
        for decoder in (plain, remat)
    ]
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), *results
    )


def test_remat_bounds_the_memory_of_the_gradient():
    """Four times the tokens need less than twice the temporary memory."""

    def temporary_bytes(num_tokens, remat):
        decoder = MLPDecoder(hidden_dim=256, remat=remat)
        slots = jnp.zeros((4, 16, 8))

        def loss(variables):
            out, _ = decoder.apply(variables, slots, num_tokens, 4)
            return jnp.sum(out**2)

        variables = jax.eval_shape(
            lambda: decoder.init(jax.random.key(0), slots, num_tokens, 4)
        )
        compiled = jax.jit(jax.grad(loss)).lower(variables).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    assert temporary_bytes(1024, True) < 2 * temporary_bytes(256, True)
    assert temporary_bytes(1024, True) < temporary_bytes(1024, False) / 3


def test_outputs_at_another_number_of_slots():
    model = Dinosaur(
        SlotAttention(num_slots=3, slot_dim=8, hidden_dim=16), decoder_hidden_dim=16
    )
    variables = random_variables(model, FEATURES, train=True)
    out = model.apply(
        variables,
        FEATURES,
        train=False,
        num_slots=5,
        num_iterations=1,
        rngs={"slots": RNGS["slots"]},
    )
    assert {name: value.shape for name, value in out.items()} == {
        "reconstruction": (2, 12, 10),
        "masks": (2, 5, 12),
        "slots": (2, 5, 8),
        "attention": (2, 5, 12),
    }
    np.testing.assert_allclose(out["masks"].sum(axis=1), 1, rtol=1e-5)


def test_initial_parameters_are_pytorchs():
    model = Dinosaur(SlotAttention(slot_dim=32, hidden_dim=512), decoder_hidden_dim=64)
    params = model.init(RNGS, jnp.zeros((1, 50, 128)), train=True)["params"]
    for kernel, fan_in in (
        (params["feature_mlp"]["hidden"]["kernel"], 128),
        (params["feature_mlp"]["out"]["bias"], 128),
        (params["decoder"]["hidden_0_kernel"], 32),
        (params["decoder"]["out_kernel"], 64),
    ):
        assert 0.8 * fan_in**-0.5 < np.abs(kernel).max() <= fan_in**-0.5
    np.testing.assert_allclose(params["decoder"]["positions"].std(), 1, rtol=0.1)
    assert params["slot_attention"]["mlp"]["hidden"]["kernel"].shape == (32, 512)
