"""Models, sizes and inputs of the training steps that benchmarks measure."""

import dataclasses
import time
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from sanorm_jax.metrics.matching import huber_set_loss
from sanorm_jax.models.autoencoder import Autoencoder
from sanorm_jax.models.dinosaur import Dinosaur
from sanorm_jax.models.set_predictor import SetPredictor
from sanorm_jax.models.slot_attention import SlotAttention
from sanorm_jax.run.distribution.devices import compiler_options

LEARNING_RATE = 1e-4
NUM_PROPERTIES = 19


@dataclasses.dataclass(frozen=True)
class Case:
    """Sizes of a benchmark: of features (`tokens`) or images (`image_size`)."""

    task: str
    batch_size: int
    num_slots: int
    image_size: int = 128
    tokens: int = 784
    feature_dim: int = 768
    remat: bool = False
    dtype: str = "float32"

    def __str__(self):
        size = (
            f"{self.tokens} tokens of {self.feature_dim}"
            if self.task == "dinosaur"
            else f"{self.image_size} x {self.image_size}"
        )
        text = f"{self.task}, {size}, {self.num_slots} slots, batch {self.batch_size}"
        text = f"{text}, remat" if self.remat else text
        return text if self.dtype == "float32" else f"{text}, {self.dtype}"


PAPER = [
    Case("autoencoder", 2, 7),
    Case("set_predictor", 8, 10),
    Case("dinosaur", 2, 11),
]
PUBLISHED_BATCH_SIZES = {"autoencoder": 64, "set_predictor": 512, "dinosaur": 64}
CASES = {
    "paper": PAPER,
    "small": [
        Case("autoencoder", 1, 3, image_size=16),
        Case("set_predictor", 1, 3, image_size=16),
        Case("dinosaur", 1, 3, tokens=16, feature_dim=8),
    ],
    # More slots, fewer tokens, smaller images, larger batches.
    "growth": [
        *(
            dataclasses.replace(case, num_slots=n)
            for case in PAPER
            for n in (7, 14, 28)
        ),
        *(Case("dinosaur", 2, 11, tokens=n) for n in (196, 392)),
        *(Case(task, 4, 7, image_size=64) for task in ("autoencoder", "set_predictor")),
        *(dataclasses.replace(case, batch_size=2 * case.batch_size) for case in PAPER),
    ],
}


def make_model(case: Case) -> nn.Module:
    """Return the model, with PyTorch's GRU."""
    is_dinosaur = case.task == "dinosaur"
    slot_attention = SlotAttention(
        case.num_slots,
        slot_dim=128 if is_dinosaur else 64,
        hidden_dim=512 if is_dinosaur else 128,
        gru="torch",
        dtype=jnp.dtype(case.dtype),
    )
    if is_dinosaur:
        return Dinosaur(slot_attention, remat=case.remat)
    if case.task == "autoencoder":
        return Autoencoder(slot_attention, image_size=case.image_size)
    return SetPredictor(slot_attention, image_size=case.image_size)


def make_inputs(case: Case, slot_dim: int) -> tuple[np.ndarray, ...]:
    """Return features or images (NHWC), noise, and the targets of properties."""
    rng = np.random.default_rng(0)
    size = case.image_size
    if case.task == "dinosaur":
        x = rng.standard_normal((case.batch_size, case.tokens, case.feature_dim))
    else:
        x = rng.uniform(-1, 1, (case.batch_size, size, size, 3))
    inputs = [x, rng.standard_normal((case.batch_size, case.num_slots, slot_dim))]
    if case.task == "set_predictor":
        inputs.append(rng.uniform(size=(*inputs[1].shape[:2], NUM_PROPERTIES)))
    return tuple(x.astype(np.float32) for x in inputs)


def _loss(out: dict[str, jax.Array], x, targets=None) -> jax.Array:
    if targets is not None:
        return huber_set_loss(out["predicted_properties"], targets).mean()
    return jnp.mean(jnp.square(out["reconstruction"] - x))


TX = optax.adam(LEARNING_RATE)


def lower_step(
    model: nn.Module, state: Any, inputs, loss: Callable[..., jax.Array] = _loss
) -> jax.stages.Lowered:
    """Return the lowered step `(state, *inputs) -> (state, loss)`.

    The state is the parameters and the state of `TX`. Shapes of the state and of the
    inputs (`make_inputs`) suffice. The loss is a function of the model's outputs, the
    input and the targets.
    """

    def step(state, x, noise, *targets):
        params, opt_state = state

        def loss_of(params):
            out = model.apply({"params": params}, x, train=True, noise=noise)
            return loss(out, x, *targets)

        value, grads = jax.value_and_grad(loss_of)(params)
        updates, opt_state = TX.update(grads, opt_state)
        return (optax.apply_updates(params, updates), opt_state), value

    options = compiler_options()
    jitted = jax.jit(step, donate_argnums=0, compiler_options=options)
    return jitted.lower(state, *inputs)


@dataclasses.dataclass
class OurStep:
    """A compiled training step.

    Attributes:
      step: Function that starts a step and returns its loss on the device.
      flops: Operations of a step, counted by XLA in the program.
      bytes_accessed: Bytes that the compiled program reads and writes.
      compile_s: Seconds of compilation.
    """

    step: Callable[[], jax.Array]
    flops: float
    bytes_accessed: float
    compile_s: float


def our_step(
    model: nn.Module, params: Any, inputs, loss: Callable[..., jax.Array] = _loss
) -> OurStep:
    """Compile the training step from the given parameters."""
    # Copied, because the step donates them.
    params = jax.tree.map(lambda x: jnp.array(x, copy=True), params)
    state = params, TX.init(params)
    inputs = jax.device_put(inputs)
    lowered = lower_step(model, state, inputs, loss)
    start = time.perf_counter()
    compiled = lowered.compile()
    compile_s = time.perf_counter() - start

    def step():
        nonlocal state
        state, value = compiled(state, *inputs)
        return value

    return OurStep(
        step,
        lowered.cost_analysis()["flops"],
        compiled.cost_analysis()["bytes accessed"],
        compile_s,
    )
