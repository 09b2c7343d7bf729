"""Check metrics, schedules and optimizers."""

import re

import jax
import numpy as np
import optax

from sanorm_jax import optimizers
from sanorm_jax.configs import dinosaur, object_discovery, property_prediction
from sanorm_jax.metrics import average_precision, segmentation
from tests.parity.vectors import Vectors

CONFIGS = {
    "dinosaur": dinosaur,
    "object_discovery": object_discovery,
    "property_prediction": property_prediction,
}


def check_metrics(vectors: Vectors):
    """Check `metrics*`: average precision, and label maps, which must be equal."""
    for method in ("refined", "repeated"):
        name = f"segmentation_{method}"
        if name in vectors:
            expected = vectors[name]
            actual = segmentation.upscale_segmentation(
                vectors["attention"], expected.shape[-1], method=method
            )
            _compare_labels(vectors, name, actual)
    for name in list(vectors.names("masks_")):
        match = re.fullmatch(r"(masks_\d+)_to_(\d+)", name)
        if match:
            labels, size = vectors[match[1]], int(match[2])
            _compare_labels(vectors, name, segmentation.resize_labels(labels, size))
    thresholds = vectors["ap_thresholds"]
    values = average_precision.average_precision(
        vectors["ap_predictions"],
        vectors["ap_targets"],
        # In the original implementation, -1 means no threshold.
        tuple(np.where(thresholds == -1, np.inf, thresholds)),
        z_range="reference",
    )
    vectors.compare("ap_values", values)


def check_optimization(vectors: Vectors):
    """Check `optimisation*`: learning rates and a trajectory of TensorFlow's Adam."""
    pattern = r"schedule_(\w+)_warmup(\d+)_half(\d+)"
    for name in list(vectors.names("schedule_")):
        if match := re.fullmatch(pattern, name):
            task, warmup_steps, half_life_steps = match.groups()
            config = CONFIGS[task].get_config().optimizer
            config.warmup_steps = int(warmup_steps)
            config.half_life_steps = int(half_life_steps)
            _, schedule = optimizers.create(config)
            steps = vectors["schedule_steps"]
            vectors.compare(name, jax.jit(jax.vmap(schedule))(steps))

    config = object_discovery.get_config().optimizer
    config.name = "adam_tf"
    config.epsilon = float(vectors["adam_eps"])
    config.learning_rate = float(vectors["adam_lr"])
    config.warmup_steps = config.half_life_steps = 0
    tx, _ = optimizers.create(config)
    params = vectors["adam_initial"]
    state, trajectory = tx.init(params), []
    for grads in vectors["adam_grads"]:
        updates, state = tx.update(grads, state, params)
        params = optax.apply_updates(params, updates)
        trajectory.append(params)
    vectors.compare("adam_trajectory", np.stack(trajectory))


def _compare_labels(vectors: Vectors, name: str, actual):
    """Add the fraction of pixels that differ, which must be 0."""
    expected = vectors[name]
    actual = np.asarray(actual)
    wrong = np.inf if actual.shape != expected.shape else (actual != expected).mean()
    vectors.add(name, wrong, 0.0)
