import functools

import jax
import numpy as np
import pytest

from sanorm_jax.core.errors import UserError
from sanorm_jax.models.autoencoder import Autoencoder, SubPixelDecoder
from sanorm_jax.models.set_predictor import SetPredictor
from sanorm_jax.models.slot_attention import SlotAttention
from tests.sanorm_jax.models.variables import random_variables

RNGS = {"params": jax.random.key(1), "slots": jax.random.key(2)}
SLOTS = SlotAttention(num_slots=3, slot_dim=8, hidden_dim=16)


def _images(size):
    return jax.random.uniform(jax.random.key(0), (2, size, size, 3), minval=-1)


@pytest.mark.parametrize(
    ("decoder", "size"),
    [
        ("expanding", 32),
        ("stationary", 11),
        ("up_convolve", 32),
        ("sub_pixel", 35),
        ("sub_pixel", 32),
    ],
)
def test_autoencoder_mixes_slots_by_masks(decoder, size):
    model = Autoencoder(SLOTS, feature_dim=6, image_size=size, decoder=decoder)
    apply = jax.jit(model.apply, static_argnames=("train", "num_slots"))
    variables = random_variables(model, _images(size), train=True)
    out = apply(
        variables,
        _images(size),
        train=False,
        num_slots=4,
        rngs={"slots": RNGS["slots"]},
    )
    assert out["reconstruction"].shape == (2, size, size, 3)
    assert out["attention"].shape == (2, 4, size * size)
    assert out["masks"].shape == (2, 4, size, size)
    np.testing.assert_allclose(out["masks"].sum(axis=1), 1, rtol=1e-5)
    mixed = (out["masks"][..., None] * out["slot_reconstructions"]).sum(axis=1)
    np.testing.assert_allclose(out["reconstruction"], mixed, atol=1e-5)


def test_sub_pixel_blocks_are_at_the_position_of_their_pixel():
    model = SubPixelDecoder(image_size=35, hidden_dim=6)
    coarse = jax.random.normal(jax.random.key(3), (1, 7, 7, 8))
    variables = random_variables(model, coarse)
    decode = jax.jit(functools.partial(model.apply, variables))
    change = np.abs(decode(coarse.at[0, 1, 5].add(1.0)) - decode(coarse))[0].max(-1)
    assert change.shape == (35, 35)
    assert (change[5:10, 25:30] > 0).all()
    # Two convolutions reach two coarse pixels, the last one a pixel more.
    rows, columns = np.nonzero(change)
    assert rows.max() <= 5 * (1 + 3)
    assert columns.min() >= 5 * (5 - 2) - 1


def test_autoencoder_options_change_the_token_width():
    options = {"concat": True, "normalize": True, "learnable_dim": 2, "weight": 0.5}
    model = Autoencoder(
        SLOTS,
        feature_dim=6,
        image_size=8,
        decoder="stationary",
        encoder_kernel_size=3,
        encoder_position=options,
        decoder_position=options,
    )
    shapes = jax.eval_shape(lambda: model.init(RNGS, _images(8), train=True))["params"]
    assert shapes["encoder_0"]["kernel"].shape == (3, 3, 3, 6)
    assert shapes["feature_norm"]["scale"].shape == (8,)
    assert shapes["decoder_0"]["kernel"].shape == (5, 5, 10, 6)
    assert shapes["encoder_position_embedding"]["embedding"].shape == (8, 8, 2)


def test_set_predictor_predicts_probabilities():
    model = SetPredictor(SLOTS, feature_dim=6, image_size=16, num_properties=5)
    variables = random_variables(model, _images(16), train=True)
    out = model.apply(
        variables, _images(16), train=False, num_slots=7, rngs={"slots": RNGS["slots"]}
    )
    assert out["predicted_properties"].shape == (2, 7, 5)
    assert out["attention"].shape == (2, 7, 16)
    assert (out["predicted_properties"] > 0).all()
    assert (out["predicted_properties"] < 1).all()


def test_set_predictor_accepts_features():
    model = SetPredictor(SLOTS, feature_dim=6, from_features=True, num_properties=5)
    features = jax.random.normal(jax.random.key(0), (2, 9, 4))
    noise = jax.random.normal(jax.random.key(1), (2, 3, 8))
    variables = random_variables(model, features, train=True)

    def predict(features):
        return model.apply(variables, features, train=False, noise=noise)

    out = predict(features)
    assert out["predicted_properties"].shape == (2, 3, 5)
    assert out["attention"].shape == (2, 3, 9)
    # Where a token lies counts, as in an image.
    moved = predict(features[:, ::-1])["predicted_properties"]
    assert np.abs(moved - out["predicted_properties"]).max() > 1e-4
    with pytest.raises(UserError, match="8 tokens do not form a square"):
        predict(features[:, :8])


@pytest.mark.parametrize(
    ("model", "size", "words"),
    [
        (Autoencoder(SLOTS, feature_dim=6, image_size=16), 8, "(8, 8, 3)"),
        (Autoencoder(SLOTS, feature_dim=6, image_size=20), 20, "multiple of 16"),
        (
            Autoencoder(SLOTS, feature_dim=6, image_size=16, decoder="linear"),
            16,
            "stationary",
        ),
        (SetPredictor(SLOTS, feature_dim=6, image_size=16), 8, "(8, 8, 3)"),
        (SetPredictor(SLOTS, feature_dim=6, image_size=10), 10, "multiple of 4"),
    ],
)
def test_images_of_the_wrong_size_are_rejected(model, size, words):
    with pytest.raises(UserError) as caught:
        jax.eval_shape(lambda: model.init(RNGS, _images(size), train=True))
    assert words in str(caught.value)
