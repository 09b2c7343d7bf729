"""Check the models: forward pass, gradients, running statistics and evaluation."""

import functools
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
from sanorm_jax.run.parameters import torch_weights
from tests.parity import rounding
from tests.parity.vectors import GRADIENT_TOLERANCE, Vectors

# The vectors do not contain the number of iterations; their README states it.
NUM_ITERATIONS = 3
EVALUATIONS = {"eval": NUM_ITERATIONS, "eval_more_slots": 5}
AFTER_TRAINING = "params_after_train_forward"
COMPARED = "train", "grad", "grad_input", AFTER_TRAINING, *EVALUATIONS

# A shift of all queries adds the same value to the logits of all slots. The softmax
# over slots cancels it, so this gradient is 0 up to rounding, in the vectors and here.
# Both are compared with the largest gradient of the file.
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
    apply = jax.jit(model.apply, static_argnames="train")

    def compute(arguments):
        variables, image, noise = arguments
        out = apply(variables, image, noise=noise, train=False)
        loss = huber_set_loss(out["predicted_properties"], targets).mean()
        return jax.tree.map(np.asarray, out | {"loss": loss})

    arguments = torch_weights.to_flax(model, weights), image, vectors["noise"]
    names = "predicted_properties", "slots", "attention", "loss"
    quantities = [name for name in names if name in vectors]
    rounding.compare(vectors, quantities, compute, arguments, {})


def _normalization(words: str, default: str) -> str:
    """Return the normalization in the file's name, the longest if several match."""
    names = [*normalization.NORMALIZATIONS, *normalization.ALIASES]
    matching = [name for name in names if name in words]
    return max(matching, key=len, default=default)


def _sizes(vectors: Vectors, weights, prefix: str = "") -> dict:
    """Return the options of Slot Attention that follow from the arrays."""
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
    """Check all arrays of a file with a training pass.

    Args:
      vectors: File of vectors.
      model: Flax module.
      weights: Arrays by PyTorch name, before the pass.
      inputs: Inputs of the model.
      present: Function that maps the model's result and the inputs to arrays, by their
        names in the vectors.
    """
    weights = _before_training(vectors, weights)
    noises = {"train": vectors["noise"]}
    for group in EVALUATIONS:
        own_noise = f"{group}/noise"
        if any(vectors.names(f"{group}/")):
            noises[group] = vectors[own_noise if own_noise in vectors else "noise"]

    @jax.jit
    def train(variables, inputs, noise):
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

        gradient = jax.grad(loss, argnums=(0, 1), has_aux=True)
        return gradient(variables["params"], inputs)

    @functools.partial(jax.jit, static_argnums=3)
    def evaluate(variables, inputs, noise, num_iterations):
        out = model.apply(
            variables, inputs, noise=noise, num_iterations=num_iterations, train=False
        )
        return present(out, inputs)

    def compute(arguments):
        """Return all results by their names in the vectors."""
        variables, inputs, noises = arguments
        (grads, grad_inputs), (out, updated) = train(variables, inputs, noises["train"])
        grads = torch_weights.to_torch(model, {"params": grads}, buffers=False)
        after = torch_weights.to_torch(model, updated, buffers=False)
        results = _under("train", out) | _under("grad", grads)
        results |= {name: grad_inputs for name in vectors.names("grad_input/")}
        results |= _under(AFTER_TRAINING, after)
        for group, num_iterations in EVALUATIONS.items():
            if group in noises:
                out = evaluate(
                    {**variables, **updated}, inputs, noises[group], num_iterations
                )
                results |= _under(group, out)
        return {name: np.asarray(value) for name, value in results.items()}

    quantities = [
        name
        for name in vectors.names()
        if name.split("/")[0] in COMPARED and not name.endswith(ZERO_GRADIENT)
    ]
    arguments = torch_weights.to_flax(model, weights), inputs, noises
    scales = _scales_of_means(vectors, weights)
    results = rounding.compare(vectors, quantities, compute, arguments, scales)
    _compare_other_gradients(vectors, results)


def _under(group: str, arrays) -> dict:
    """Return the arrays by their names in a group of the vectors."""
    return {f"{group}/{name}": value for name, value in arrays.items()}


def _scales_of_means(vectors: Vectors, weights) -> dict[str, float]:
    """Return the error scales of running means, by name.

    The mean of a batch can be near 0, but its rounding error scales with the standard
    deviation of the values. A running mean includes a tenth of the mean and its error.
    """
    scales = {}
    after = vectors.group(f"{AFTER_TRAINING}/")
    for name in [name for name in after if name.endswith("means")]:
        of_variance = name.removesuffix("means") + "variances"
        kept = normalization.MOMENTUM * weights[of_variance]
        taken = 1 - normalization.MOMENTUM
        variance = np.maximum(after[of_variance] - kept, 0).max() / taken
        of_mean = np.abs(after[name]).max()
        scales[f"{AFTER_TRAINING}/{name}"] = max(of_mean, taken * variance**0.5)
    return scales


def _before_training(vectors: Vectors, weights):
    """Return the weights with the running statistics from before the pass.

    In some files, the statistics "before" are views of buffers that the pass then
    updated, so they equal those after the pass. They cannot be distinguished from
    statistics that the pass left unchanged. With a momentum of 0.1, these would have to
    equal the statistics of the batch. For such files, the pass starts from 0 and 1, as
    in a new model.
    """
    after = vectors.group(f"{AFTER_TRAINING}/")
    if not after or not all(np.array_equal(weights[k], after[k]) for k in after):
        return weights
    vectors.note(
        "running statistics before the training pass equal those after it, so the "
        "pass starts from those of a new model, mean 0 and variance 1"
    )
    fresh = {
        name: np.ones_like(value) if "variances" in name else np.zeros_like(value)
        for name, value in after.items()
    }
    return {**weights, **fresh}


def _compare_other_gradients(vectors: Vectors, results):
    """Add rows for gradients that are 0 or exist only on one side."""
    expected = vectors.group("grad/")
    largest = max(np.abs(value).max() for value in expected.values())
    grads = {
        name.removeprefix("grad/"): value
        for name, value in results.items()
        if name.startswith("grad/")
    }
    for name, value in grads.items():
        quantity = f"grad/{name}"
        if name not in expected:
            # In PyTorch, a parameter that does not affect the loss has no gradient.
            vectors.add(f"{quantity} (none)", np.abs(value).max(), 0.0)
        elif name.endswith(ZERO_GRADIENT):
            for who, array in (("here", value), ("vectors", expected[name])):
                error = np.abs(array).max() / largest
                vectors.add(f"{quantity} (0; {who})", error, ZERO_TOLERANCE)
    for name in expected.keys() - grads.keys():
        vectors.add(f"grad/{name} (not here)", np.inf, GRADIENT_TOLERANCE)
