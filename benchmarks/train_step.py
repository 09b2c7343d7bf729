"""Times our training steps beside plain PyTorch steps, taking turns in one run.

    python -m benchmarks.train_step --cases=paper
    python -m benchmarks.train_step --cases=growth --repeats=3

A step is forward, backward and Adam on random inputs, in float32. Both sides start
from the same weights and must compute the same loss. Memory is the rise of the
process's peak during one step, over what it held before. Needs PyTorch.
"""

import ctypes
import dataclasses
import gc
import os
import pathlib
import re
import time
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import optax
import torch
from absl import app, flags
from rich.console import Console
from rich.table import Table

from benchmarks import torch_models
from sanorm_jax import torch_weights
from sanorm_jax.metrics.matching import huber_set_loss
from sanorm_jax.models.autoencoder import Autoencoder
from sanorm_jax.models.dinosaur import Dinosaur
from sanorm_jax.models.set_predictor import SetPredictor

_CASES = flags.DEFINE_enum("cases", "paper", ["paper", "growth", "small"], "Sizes.")
_TASKS = flags.DEFINE_list(
    "tasks", ["autoencoder", "set_predictor", "dinosaur"], "Which models."
)
_REPEATS = flags.DEFINE_integer("repeats", 5, "Timed steps of each side.", 1)
_REMAT = flags.DEFINE_bool("remat", False, "DINOSAUR with remat.")
_TORCH = flags.DEFINE_bool("torch", True, "Time PyTorch too.")

LEARNING_RATE = 1e-4
NUM_PROPERTIES = 19


@dataclasses.dataclass(frozen=True)
class Case:
    """Sizes of one benchmark; `tokens` for features, else `image_size`."""

    task: str
    batch_size: int
    num_slots: int
    image_size: int = 128
    tokens: int = 784
    feature_dim: int = 768

    def __str__(self):
        size = (
            f"{self.tokens} tokens of {self.feature_dim}"
            if self.task == "dinosaur"
            else f"{self.image_size} x {self.image_size}"
        )
        return f"{self.task}, {size}, {self.num_slots} slots, batch {self.batch_size}"


PAPER = [
    Case("autoencoder", 2, 7),
    Case("set_predictor", 8, 10),
    Case("dinosaur", 2, 11),
]
CASES = {
    "paper": PAPER,
    "small": [
        Case("autoencoder", 1, 3, image_size=16),
        Case("set_predictor", 1, 3, image_size=16),
        Case("dinosaur", 1, 3, tokens=16, feature_dim=8),
    ],
    # By slots, by tokens and by batch, one at a time.
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


def make_case(case: Case):
    """Return our model, its loss, the torch model, and the inputs of both.

    Returns:
      Our module; `loss(out, inputs)`; the torch module; our inputs and noise;
      torch's inputs, to be given to its `loss`.
    """
    rng = np.random.default_rng(0)
    options = {"num_slots": case.num_slots, "gru": "torch"}

    def normal(*shape):
        return rng.standard_normal(shape).astype(np.float32)

    if case.task == "dinosaur":
        ours = Dinosaur(**options, remat=_REMAT.value)
        theirs = torch_models.Dinosaur(case.tokens, case.feature_dim)
        features = normal(case.batch_size, case.tokens, case.feature_dim)
        noise = normal(case.batch_size, case.num_slots, ours.slot_dim)

        def loss(out):
            return jnp.mean(jnp.square(out["reconstruction"] - features))

        return ours, loss, theirs, (features, noise), (features, noise)

    image = rng.uniform(-1, 1, (case.batch_size, case.image_size, case.image_size, 3))
    image = image.astype(np.float32)
    torch_image = np.ascontiguousarray(image.transpose(0, 3, 1, 2))
    if case.task == "autoencoder":
        ours = Autoencoder(**options, image_size=case.image_size)
        theirs = torch_models.Autoencoder(case.image_size)
        noise = normal(case.batch_size, case.num_slots, ours.slot_dim)

        def loss(out):
            return jnp.mean(jnp.square(out["reconstruction"] - image))

        return ours, loss, theirs, (image, noise), (torch_image, noise)

    ours = SetPredictor(**options, image_size=case.image_size)
    theirs = torch_models.SetPredictor(case.image_size)
    noise = normal(case.batch_size, case.num_slots, ours.slot_dim)
    targets = rng.uniform(size=(case.batch_size, case.num_slots, NUM_PROPERTIES))
    targets = targets.astype(np.float32)

    def loss(out):
        return huber_set_loss(out["predicted_properties"], targets).mean()

    return ours, loss, theirs, (image, noise), (torch_image, noise, targets)


def our_step(model, loss, weights, inputs) -> tuple[Callable[[], float], float]:
    """Return a function that makes a step and returns its loss; seconds to compile."""
    params = torch_weights.to_flax(model, weights)["params"]
    tx = optax.adam(LEARNING_RATE)

    def step(state, inputs, noise):
        params, opt_state = state

        def loss_of(params):
            return loss(
                model.apply({"params": params}, inputs, train=True, noise=noise)
            )

        value, grads = jax.value_and_grad(loss_of)(params)
        updates, opt_state = tx.update(grads, opt_state)
        return (optax.apply_updates(params, updates), opt_state), value

    # A copy, since the step's donation would else free memory that torch owns.
    params = jax.tree.map(lambda x: jnp.array(x, copy=True), params)
    state = params, tx.init(params)
    inputs = jax.device_put(inputs)
    start = time.perf_counter()
    compiled = jax.jit(step, donate_argnums=0).lower(state, *inputs).compile()
    seconds = time.perf_counter() - start

    def run():
        nonlocal state
        state, value = compiled(state, *inputs)
        return float(value)

    return run, seconds


def torch_step(model, inputs) -> Callable[[], float]:
    """Return a function that makes a step and returns its loss."""
    optimizer = torch.optim.Adam(model.parameters(), lr=LEARNING_RATE)
    inputs = [torch.from_numpy(x) for x in inputs]

    def run():
        optimizer.zero_grad()
        value = model.loss(*inputs)
        value.backward()
        optimizer.step()
        return value.item()

    return run


def peak_rise(run: Callable[[], float]) -> float:
    """Return GB by which a call lifts the process's peak over what it held before."""
    gc.collect()
    # Freed memory that malloc keeps would else count as held before.
    ctypes.CDLL(None).malloc_trim(0)
    pathlib.Path("/proc/self/clear_refs").write_text("5")
    before = _status_gb("VmRSS")
    run()
    return _status_gb("VmHWM") - before


def _status_gb(field: str) -> float:
    status = pathlib.Path("/proc/self/status").read_text()
    return int(re.search(rf"{field}:\s+(\d+) kB", status)[1]) * 1024 / 1e9


def measure(case: Case, repeats: int, with_torch: bool) -> dict[str, float]:
    """Return medians in seconds, peaks in GB, and seconds to compile.

    Raises:
      RuntimeError: the two sides disagree about the loss.
    """
    torch.manual_seed(0)
    model, loss, torch_model, inputs, torch_inputs = make_case(case)
    weights = {k: v.numpy().copy() for k, v in torch_model.state_dict().items()}
    ours, compile_seconds = our_step(model, loss, weights, inputs)
    sides = {"ours": ours}
    if with_torch:
        sides["torch"] = torch_step(torch_model, torch_inputs)
    # The first step warms up, and both must agree on it.
    losses = [run() for run in sides.values()]
    if not np.allclose(losses, losses[0], rtol=1e-4):
        raise RuntimeError(f"{case}: losses differ: {losses}")
    seconds = {name: [] for name in sides}
    for _ in range(repeats):
        for name, run in sides.items():
            start = time.perf_counter()
            run()
            seconds[name].append(time.perf_counter() - start)
    result = {name: float(np.median(values)) for name, values in seconds.items()}
    result |= {f"{name}_gb": peak_rise(run) for name, run in sides.items()}
    return result | {"compile": compile_seconds}


def main(argv):
    """Measure the chosen cases and print a table."""
    del argv
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    table = Table(title=f"Median of {_REPEATS.value} training steps, float32")
    table.add_column("case")
    for name in ("ours, s", "torch, s", "torch/ours", "ours, GB", "torch, GB"):
        table.add_column(name, justify="right")
    table.add_column("compile, s", justify="right")
    for case in CASES[_CASES.value]:
        if case.task in _TASKS.value:
            m = measure(case, _REPEATS.value, _TORCH.value)
            ratio = m.get("torch", np.nan) / m["ours"]
            keys = ("ours_gb", "torch_gb", "compile")
            table.add_row(
                str(case),
                f"{m['ours']:.3f}",
                f"{m.get('torch', np.nan):.3f}",
                f"{ratio:.2f}",
                *(f"{m.get(key, np.nan):.2f}" for key in keys),
            )
    Console(width=120).print(table)


if __name__ == "__main__":
    app.run(main)
