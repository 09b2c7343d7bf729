"""Checks of the models: forward, gradients, running statistics, evaluation."""

import re

import jax
import jax.numpy as jnp
import numpy as np

from sanorm_jax.metrics.matching import huber_set_loss
from sanorm_jax.models import normalization
from sanorm_jax.models.autoencoder import DECODERS, Autoencoder
from sanorm_jax.models.dinosaur import Dinosaur
from sanorm_jax.models.set_predictor import SetPredictor
from sanorm_jax.models.slot_attention import SlotAttention
from sanorm_jax.run import torch_weights
from tests.parity.vectors import GRADIENT_TOLERANCE, Vectors

# Iterations are in no array; the README of the vectors tells them.
NUM_ITERATIONS = 3
EVALUATIONS = {"eval": NUM_ITERATIONS, "eval_more_slots": 5}

# A shift of all queries adds the same to the logits of all slots, and their softmax
# does not see it: this gradient is 0 but for rounding, in the vectors and here, so
# both are held against the largest gradient of the file.
ZERO_GRADIENT = "norm_slots.bias"
ZERO_TOLERANCE = 1e-6


def check_slot_attention(vectors: Vectors):
    """Check `slot_attention_*`: the loss is the sum of the squared slots."""
    weights = vectors.group("params_before/")
    words = vectors.name.removeprefix("slot_attention_")
    model = SlotAttention(
        **_sizes(vectors, weights),
        update_normalization=_normalization(words, default="mean"),
        implicit="implicit" in words,
    )

    def present(out, inputs):
        del inputs
        slots, attention = out
        loss = jnp.sum(jnp.square(slots))
        return {"slots": slots, "attention": attention, "loss": loss}

    _check(vectors, model, weights, vectors["inputs"], present)


def check_dinosaur(vectors: Vectors):
    """Check `dinosaur_*`: the loss is the mean squared error of the features."""
    weights = vectors.group("params_before/")
    layers = [name for name in weights if re.search(r"mlp_decoder\.\d+\.bias", name)]
    model = Dinosaur(
        SlotAttention(
            **_sizes(vectors, weights, "slot_attention."),
            update_normalization=_normalization(vectors.name, default="mean"),
        ),
        decoder_hidden_dim=weights["mlp_decoder.mlp_decoder.0.weight"].shape[0],
        decoder_num_hidden_layers=len(layers) - 1,
    )

    def present(out, features):
        loss = jnp.mean(jnp.square(out["reconstruction"] - features))
        return out | {"masks": out["masks"][..., None], "loss": loss}

    _check(vectors, model, weights, vectors["features"], present)


def check_autoencoder(vectors: Vectors):
    """Check `autoencoder_*`: the loss is the mean squared error of the image."""
    weights = vectors.group("params_before/")
    # Images are [B, 3, H, W] in the vectors, [B, H, W, 3] here.
    image = np.moveaxis(vectors["image"], 1, 3)
    model = Autoencoder(
        SlotAttention(
            **_sizes(vectors, weights, "slot_attention."),
            update_normalization=_normalization(vectors.name, default="constant"),
        ),
        image_size=image.shape[1],
        feature_dim=weights["encoder_cnn.0.weight"].shape[0],
        encoder_kernel_size=weights["encoder_cnn.0.weight"].shape[-1],
        decoder=next(name for name in DECODERS if name in vectors.name),
    )

    def present(out, image):
        return {
            "slots": out["slots"],
            "attention": out["attention"],
            "reconstruction": jnp.moveaxis(out["reconstruction"], 3, 1),
            "slot_wise_masks": out["masks"][:, :, None],
            "slot_wise_reconstructions": jnp.moveaxis(
                out["slot_reconstructions"], 4, 2
            ),
            "loss": jnp.mean(jnp.square(out["reconstruction"] - image)),
        }

    _check(vectors, model, weights, image, present)


def check_set_predictor(vectors: Vectors):
    """Check `set_predictor*`: evaluation mode, the loss is the matched Huber loss."""
    weights = vectors.group("params/")
    image, targets = np.moveaxis(vectors["image"], 1, 3), vectors["targets"]
    model = SetPredictor(
        SlotAttention(
            **_sizes(vectors, weights, "slot_attention."),
            update_normalization=_normalization(
                vectors.name, default="scalar_batch_norm_single"
            ),
        ),
        image_size=image.shape[1],
        feature_dim=weights["cnn_encoder.0.weight"].shape[0],
        num_properties=weights["mlp.2.weight"].shape[0],
        property_hidden_dim=weights["mlp.0.weight"].shape[0],
    )
    variables = torch_weights.to_flax(model, weights)
    apply = jax.jit(model.apply, static_argnames="train")
    out = apply(variables, image, noise=vectors["noise"], train=False)
    for name in out:
        if name in vectors:
            vectors.compare(name, out[name])
    loss = huber_set_loss(out["predicted_properties"], targets).mean()
    vectors.compare("loss", loss)


def _normalization(words: str, default: str) -> str:
    """Return the normalization that a file's name tells, the longest that fits."""
    names = [*normalization.NORMALIZATIONS, *normalization.ALIASES]
    fitting = [name for name in names if name in words]
    return max(fitting, key=len, default=default)


def _sizes(vectors: Vectors, weights, prefix: str = "") -> dict:
    """Return the options of Slot Attention that the arrays tell."""
    _, num_slots, slot_dim = vectors["noise"].shape
    return {
        "num_slots": num_slots,
        "slot_dim": slot_dim,
        "num_iterations": NUM_ITERATIONS,
        "common_dim": weights[f"{prefix}to_k.weight"].shape[0],
        "hidden_dim": weights[f"{prefix}mlp.0.weight"].shape[0],
        "gru": "torch" if f"{prefix}gru.weight_ih" in weights else "tf",
    }


def _check(vectors: Vectors, model, weights, inputs, present):
    """Check all that a file with a training pass holds.

    Args:
      vectors: the file.
      model: the Flax module.
      weights: arrays by PyTorch name, before the pass.
      inputs: what the model takes.
      present: maps the model's result and the inputs to the vectors' names.
    """
    variables = torch_weights.to_flax(model, _before_training(vectors, weights))

    @jax.jit
    def train(params, inputs, noise):
        def loss(params, inputs):
            out, updated = model.apply(
                {**variables, "params": params},
                inputs,
                noise=noise,
                train=True,
                mutable=["batch_stats"],
            )
            out = present(out, inputs)
            return out["loss"], (out, updated)

        return jax.value_and_grad(loss, argnums=(0, 1), has_aux=True)(params, inputs)

    (_, (out, updated)), (grads, grad_inputs) = train(
        variables["params"], inputs, vectors["noise"]
    )
    _compare_outputs(vectors, "train", out)
    grads = torch_weights.to_torch(model, {"params": grads}, buffers=False)
    _compare_gradients(vectors, grads)
    for name in vectors.names("grad_input/"):
        vectors.compare(name, grad_inputs, GRADIENT_TOLERANCE)
    after = torch_weights.to_torch(model, updated, buffers=False)
    for name in vectors.names("params_after_train_forward/"):
        vectors.compare(name, after[name.split("/", 1)[1]])

    evaluate = jax.jit(
        lambda variables, noise, num_iterations: present(
            model.apply(
                variables,
                inputs,
                noise=noise,
                num_iterations=num_iterations,
                train=False,
            ),
            inputs,
        ),
        static_argnums=2,
    )
    for group, num_iterations in EVALUATIONS.items():
        own_noise = f"{group}/noise"
        if any(vectors.names(f"{group}/")):
            noise = vectors[own_noise if own_noise in vectors else "noise"]
            out = evaluate({**variables, **updated}, noise, num_iterations)
            _compare_outputs(vectors, group, out)


def _before_training(vectors: Vectors, weights):
    """Return the weights with the running statistics from before the pass.

    Arrays of the running statistics "before" can be views of buffers that the pass
    then updated, and so equal those after it. Statistics that a pass did not move
    cannot be told from those; with a momentum of 0.1, only statistics equal to the
    batch's own would stay. Such files start from 0 and 1, as a new model does.
    """
    after = vectors.group("params_after_train_forward/")
    if not after or not all(np.array_equal(weights[k], after[k]) for k in after):
        return weights
    vectors.note(
        "running statistics before the training pass equal those after it, so the "
        "pass starts here from those of a new model, mean 0 and variance 1"
    )
    fresh = {
        name: np.ones_like(value) if "variances" in name else np.zeros_like(value)
        for name, value in after.items()
    }
    return {**weights, **fresh}


def _compare_outputs(vectors: Vectors, group: str, out):
    for name, value in out.items():
        if f"{group}/{name}" in vectors:
            vectors.compare(f"{group}/{name}", value)


def _compare_gradients(vectors: Vectors, grads):
    expected = vectors.group("grad/")
    largest = max(np.abs(value).max() for value in expected.values())
    for name, value in grads.items():
        quantity = f"grad/{name}"
        if name.endswith(ZERO_GRADIENT) and name in expected:
            for who, array in (("here", value), ("vectors", expected[name])):
                error = np.abs(array).max() / largest
                vectors.add(f"{quantity} (0; {who})", error, ZERO_TOLERANCE)
        elif name in expected:
            vectors.compare(quantity, value, GRADIENT_TOLERANCE)
        else:
            # PyTorch gives none to a parameter that the loss does not depend on.
            vectors.add(f"{quantity} (none)", np.abs(value).max(), 0.0)
    for name in expected.keys() - grads.keys():
        vectors.add(f"grad/{name} (not here)", np.inf, GRADIENT_TOLERANCE)
