"""Compare the models with plain PyTorch in float64: `python -m tests.parity.float64`.

The vectors of the original implementation are in float32, so rounding hides small
differences. In float64, outputs and gradients agree with those of plain PyTorch models
(`benchmarks.torch_models`, `tests.parity.torch_variants`) within 1e-12 of the largest
entry. The exit code is 0 if all errors are within 1e-12, and 1 otherwise.
"""

import sys

import jax
import jax.numpy as jnp

# Where the models do not compute in `dtype`, they use `jnp.float32`. Replace it before
# they are imported.
jax.config.update("jax_enable_x64", True)
jnp.float32 = jnp.float64

import numpy as np  # noqa: E402
import torch  # noqa: E402
from absl import app  # noqa: E402
from rich.console import Console  # noqa: E402
from rich.table import Table  # noqa: E402

from benchmarks import torch_models  # noqa: E402
from sanorm_jax.metrics.matching import huber_set_loss  # noqa: E402
from sanorm_jax.models.autoencoder import Autoencoder  # noqa: E402
from sanorm_jax.models.dinosaur import Dinosaur  # noqa: E402
from sanorm_jax.models.normalization import NORMALIZATIONS  # noqa: E402
from sanorm_jax.models.set_predictor import SetPredictor  # noqa: E402
from sanorm_jax.models.slot_attention import SlotAttention  # noqa: E402
from sanorm_jax.run.parameters import torch_weights  # noqa: E402
from tests.parity import torch_variants  # noqa: E402
from tests.parity.models import ZERO_GRADIENT  # noqa: E402
from tests.parity.vectors import relative_error  # noqa: E402

TOLERANCE = 1e-12
# Minimum number of channels for which convolutions use Winograd's algorithm.
CHANNELS = 16


def slot_attention(normalization: str, gru: str, implicit: bool) -> dict[str, float]:
    """Return the errors of Slot Attention by quantity."""
    reference = torch_variants.SlotAttention(12, 16, 24, normalization, gru, implicit)
    model = SlotAttention(
        num_slots=5,
        slot_dim=16,
        hidden_dim=24,
        update_normalization=normalization,
        gru=gru,
        implicit=implicit,
        dtype=jnp.float64,
    )

    def ours(out, inputs):
        del inputs
        return out[0], jnp.square(out[0]).mean()

    def theirs(inputs, noise):
        slots = reference(inputs, noise)
        return slots, slots.square().mean()

    return _errors(model, reference, ours, theirs, _normal(3, 20, 12), (3, 5, 16))


def dinosaur(normalization: str) -> dict[str, float]:
    """Return the errors of DINOSAUR by quantity."""
    reference = torch_models.Dinosaur(16, 24, 8, 32)
    reference.slot_attention = _slot_attention(8, 32, normalization)
    slot_attention = _flax_slot_attention(5, 8, normalization)
    model = Dinosaur(slot_attention, decoder_hidden_dim=32)

    def ours(out, features):
        reconstruction = out["reconstruction"]
        return reconstruction, jnp.square(reconstruction - features).mean()

    def theirs(features, noise):
        reconstruction = reference(features, noise)
        return reconstruction, (reconstruction - features).square().mean()

    return _errors(model, reference, ours, theirs, _normal(3, 16, 24), (3, 5, 8))


def autoencoder(decoder: str) -> dict[str, float]:
    """Return the errors of object discovery by quantity."""
    reference = torch_models.Autoencoder(32, CHANNELS, 16, 32)
    reference.slot_attention = _slot_attention(16, 32, "weighted_sum")
    if decoder != "expanding":
        torch_variants.change_decoder(reference, decoder, 16, CHANNELS)
    model = Autoencoder(
        _flax_slot_attention(3, 16, "weighted_sum"),
        image_size=32,
        feature_dim=CHANNELS,
        decoder=decoder,
    )

    def ours(out, image):
        reconstruction = out["reconstruction"]
        loss = jnp.square(reconstruction - image).mean()
        return jnp.moveaxis(reconstruction, 3, 1), loss

    def theirs(image, noise):
        reconstruction = reference(image.permute(0, 3, 1, 2), noise)
        loss = (reconstruction.permute(0, 2, 3, 1) - image).square().mean()
        return reconstruction, loss

    return _errors(model, reference, ours, theirs, _normal(2, 32, 32, 3), (2, 3, 16))


def set_predictor(normalization: str) -> dict[str, float]:
    """Return the errors of property prediction by quantity."""
    reference = torch_models.SetPredictor(32, CHANNELS, 16, 32)
    reference.slot_attention = _slot_attention(16, 32, normalization)
    model = SetPredictor(
        _flax_slot_attention(4, 16, normalization),
        image_size=32,
        feature_dim=CHANNELS,
    )
    targets = torch.rand(2, 4, 19, dtype=torch.float64)

    def ours(out, image):
        del image
        predicted = out["predicted_properties"]
        return predicted, huber_set_loss(predicted, targets.numpy()).mean()

    def theirs(image, noise):
        image = image.permute(0, 3, 1, 2)
        return reference(image, noise), reference.loss(image, noise, targets)

    return _errors(model, reference, ours, theirs, _normal(2, 32, 32, 3), (2, 4, 16))


def _slot_attention(dim, hidden_dim, normalization):
    return torch_variants.SlotAttention(
        dim, dim, hidden_dim, normalization, "tf", implicit=False
    )


def _flax_slot_attention(num_slots, slot_dim, normalization):
    return SlotAttention(
        num_slots=num_slots,
        slot_dim=slot_dim,
        hidden_dim=32,
        update_normalization=normalization,
        dtype=jnp.float64,
    )


def _normal(*shape):
    return torch.randn(shape, dtype=torch.float64)


def _errors(model, reference, ours, theirs, inputs, noise_shape) -> dict[str, float]:
    """Return the errors of output, loss and gradients, relative to the largest entry.

    Args:
      model: Flax module.
      reference: PyTorch module of the same architecture.
      ours: Function of the Flax module's result and inputs; returns output and loss.
      theirs: Function of inputs and noise; returns PyTorch's output and loss.
      inputs: Inputs of both models.
      noise_shape: Shape of the slot noise, `[B, K, D]`.
    """
    reference.double()
    noise = _normal(*noise_shape)
    weights = {k: v.numpy() for k, v in reference.state_dict().items()}
    variables = torch_weights.to_flax(model, weights)
    # The coordinates of position embeddings are float32 constants in the Flax models.
    constants = torch_weights.to_torch(model, variables)
    reference.load_state_dict({k: torch.tensor(v) for k, v in constants.items()})

    @jax.jit
    def run(params, inputs, noise):
        def loss(params, inputs):
            out, _ = model.apply(
                {**variables, "params": params},
                inputs,
                noise=noise,
                train=True,
                mutable=["batch_stats"],
            )
            output, value = ours(out, inputs)
            return value, output

        gradient = jax.value_and_grad(loss, argnums=(0, 1), has_aux=True)
        return gradient(params, inputs)

    (loss, output), (grads, grad_inputs) = run(
        variables["params"], inputs.numpy(), noise.numpy()
    )
    inputs.requires_grad_(True)
    true_output, true_loss = theirs(inputs, noise)
    true_loss.backward()

    found = {"output": output, "loss": loss, "grad_input": grad_inputs}
    expected = {"output": true_output, "loss": true_loss, "grad_input": inputs.grad}
    grads = torch_weights.to_torch(model, {"params": grads}, buffers=False)
    for name, parameter in reference.named_parameters():
        found[f"grad/{name}"] = grads[name]
        gradient = parameter.grad
        expected[f"grad/{name}"] = (
            torch.zeros_like(parameter) if gradient is None else gradient
        )
    largest = max(np.abs(value).max() for value in grads.values())
    errors = {}
    for name, value in expected.items():
        actual, target = np.asarray(found[name]), value.detach().numpy()
        if actual.dtype != np.float64:
            raise TypeError(f"{name}: computed in {actual.dtype}, not in float64")
        is_zero = name.endswith(ZERO_GRADIENT)
        scale = largest if is_zero else np.abs(target).max()
        errors[name] = relative_error(actual, target, scale)
    return errors


def cases() -> dict[str, dict[str, float]]:
    """Return the errors by quantity of every model and variant."""
    torch.manual_seed(0)
    found = {}
    for name in NORMALIZATIONS:
        found[f"slot_attention, {name}"] = slot_attention(name, "tf", implicit=False)
    found["slot_attention, implicit, torch GRU"] = slot_attention(
        "weighted_mean", "torch", implicit=True
    )
    for name in ("weighted_mean", "batch_norm"):
        found[f"dinosaur, {name}"] = dinosaur(name)
        found[f"set_predictor, {name}"] = set_predictor(name)
    for decoder in ("expanding", "stationary", "up_convolve"):
        found[f"autoencoder, {decoder}"] = autoencoder(decoder)
    return found


def main(argv):
    del argv
    table = Table("model", "quantities", "worst", title="Plain PyTorch in float64")
    table.add_column("largest relative error", justify="right")
    passed = True
    for name, errors in cases().items():
        worst = max(errors, key=lambda quantity: errors[quantity])
        within = all(error <= TOLERANCE for error in errors.values())
        passed = passed and within
        style = None if within else "bold red"
        number = f"{errors[worst]:.1e}"
        table.add_row(name, str(len(errors)), worst, number, style=style)
    Console(width=None if sys.stdout.isatty() else 120).print(table)
    sys.exit(0 if passed else 1)


if __name__ == "__main__":
    app.run(main)
