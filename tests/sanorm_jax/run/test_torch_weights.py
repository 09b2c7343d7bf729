import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sanorm_jax.core.errors import UserError
from sanorm_jax.models.autoencoder import Autoencoder
from sanorm_jax.models.dinosaur import Dinosaur, MLPDecoder
from sanorm_jax.models.set_predictor import SetPredictor
from sanorm_jax.models.slot_attention import SlotAttention
from sanorm_jax.run.parameters import torch_weights

SMALL = {"num_slots": 3, "slot_dim": 6, "hidden_dim": 10}
SLOTS = SlotAttention(**SMALL)
POSITION = {"concat": True, "normalize": True, "weight": 0.5}
LEARNED = {"learnable_dim": 5}
TOKENS, IMAGES = (1, 7, 5), (1, 16, 16, 3)


def _autoencoder(**options):
    return Autoencoder(SLOTS, feature_dim=4, image_size=16, **options), IMAGES


MODELS = {
    "mean": (SlotAttention(**SMALL), TOKENS),
    "layer_norm": (SlotAttention(**SMALL, update_normalization="layer_norm"), TOKENS),
    "image_level": (SlotAttention(**SMALL, update_normalization="image_level"), TOKENS),
    "batch_norm": (SlotAttention(**SMALL, update_normalization="batch_norm"), TOKENS),
    "torch_gru": (SlotAttention(**SMALL, gru="torch", common_dim=8), TOKENS),
    "dinosaur": (Dinosaur(SLOTS, decoder_num_hidden_layers=2), TOKENS),
    "expanding": _autoencoder(),
    "stationary": _autoencoder(
        decoder="stationary",
        encoder_kernel_size=3,
        encoder_position=POSITION,
        decoder_position=LEARNED,
    ),
    "up_convolve": _autoencoder(decoder="up_convolve"),
    "set_predictor": (SetPredictor(SLOTS, feature_dim=4, image_size=16), IMAGES),
}


def _variables(name):
    """Return random numbers in the shapes of a model's variables."""
    model, shape = MODELS[name]
    rngs = {"params": jax.random.key(0), "slots": jax.random.key(0)}
    shapes = jax.eval_shape(lambda: model.init(rngs, jnp.zeros(shape), train=True))
    rng = np.random.default_rng(0)
    fill = lambda x: rng.standard_normal(x.shape).astype(np.float32)  # noqa: E731
    return model, jax.tree.map(fill, shapes)


@pytest.mark.parametrize("name", MODELS)
def test_round_trip(name):
    model, variables = _variables(name)
    tensors = torch_weights.to_torch(model, variables)
    back = torch_weights.to_flax(model, tensors)
    assert jax.tree.structure(back) == jax.tree.structure(variables)
    jax.tree.map(np.testing.assert_array_equal, back, variables)


def test_names_and_layouts():
    """Spot checks by hand of each kind of layout."""
    model, variables = _variables("up_convolve")
    tensors = torch_weights.to_torch(model, variables)
    params = variables["params"]
    np.testing.assert_array_equal(
        tensors["slot_attention.to_k.weight"], params["slot_attention"]["to_k"].T
    )
    np.testing.assert_array_equal(
        tensors["encoder_cnn.2.weight"][1, 3, 0, 4],
        params["encoder_1"]["kernel"][0, 4, 3, 1],
    )
    np.testing.assert_array_equal(
        tensors["decoder_cnn.0.unpool.weights"][:, 0, 0, 0], np.ones(6)
    )
    assert tensors["encoder_pos.pos_embedding"].shape == (16, 16, 4)
    assert tensors["decoder_pos.pos_embedding"].shape == (1, 1, 4)

    model, variables = _variables("expanding")
    tensors = torch_weights.to_torch(model, variables)
    # ConvTranspose2d: [in, out, h, w], turned by half.
    np.testing.assert_array_equal(
        tensors["decoder_cnn.0.weight"][5, 1, 0, 4],
        variables["params"]["decoder_0"]["kernel"][4, 0, 5, 1],
    )

    model, variables = _variables("torch_gru")
    tensors = torch_weights.to_torch(model, variables)
    gru = variables["params"]["gru"]
    assert tensors["gru.weight_ih"].shape == (18, 8)
    np.testing.assert_array_equal(
        tensors["gru.weight_ih"][:6], gru["kernel"][:, 6:12].T
    )
    np.testing.assert_array_equal(tensors["gru.bias_hh"][6:12], gru["bias"][1, :6])


def test_missing_and_unknown_names_are_reported():
    model, variables = _variables("mean")
    tensors = torch_weights.to_torch(model, variables)
    tensors["to_x.weight"] = tensors.pop("to_q.weight")
    with pytest.raises(UserError) as caught:
        torch_weights.to_flax(model, tensors)
    assert "missing to_q.weight" in str(caught.value)
    assert "unknown to_x.weight" in str(caught.value)
    assert "\n" not in str(caught.value)

    del variables["params"]["norm_mlp"]["bias"]
    with pytest.raises(UserError, match="missing params/norm_mlp/bias"):
        torch_weights.to_torch(model, variables)


def test_weights_of_another_normalization_are_rejected():
    model, variables = _variables("batch_norm")
    tensors = torch_weights.to_torch(model, variables)
    with pytest.raises(UserError, match="unknown update_normalizer"):
        torch_weights.to_flax(MODELS["mean"][0], tensors)


def test_frozen_encoder_in_a_checkpoint_is_ignored():
    model, variables = _variables("dinosaur")
    tensors = torch_weights.to_torch(model, variables)
    tensors["encoder.blocks.0.attn.qkv.weight"] = np.zeros((3, 3), np.float32)
    back = torch_weights.to_flax(model, tensors)
    jax.tree.map(np.testing.assert_array_equal, back, variables)


def test_other_constants_are_rejected():
    model, variables = _variables("expanding")
    tensors = torch_weights.to_torch(model, variables)
    tensors["encoder_pos.pos_embedding"] = 2 * tensors["encoder_pos.pos_embedding"]
    with pytest.raises(UserError, match=r"encoder_pos\.pos_embedding"):
        torch_weights.to_flax(model, tensors)


def test_gradients_can_be_mapped():
    model, variables = _variables("batch_norm")
    tensors = torch_weights.to_torch(
        model, {"params": variables["params"]}, buffers=False
    )
    assert "update_normalizer.gamma" in tensors
    assert "update_normalizer.means" not in tensors


def test_models_without_a_mapping():
    with pytest.raises(UserError, match="MLPDecoder"):
        torch_weights.to_torch(MLPDecoder(), {})
