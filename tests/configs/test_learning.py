"""Each small config learns a few examples: better than the best constant could.

The models are the shipped ones, narrower. A gradient that is cut, or of the wrong sign,
leaves the loss where a constant has it. Training ends once the loss is clearly lower.
"""

import importlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sanorm_jax import optimizers, tasks
from sanorm_jax.data import prepare
from sanorm_jax.data.sources.base import Options
from sanorm_jax.feature_extraction import features
from sanorm_jax.feature_extraction.options import Options as EncoderOptions
from sanorm_jax.metrics.matching import huber_set_loss
from sanorm_jax.train_step import create_state, make_train_step

BATCH = 4
MAX_STEPS = 300
SPLITS = {"train": BATCH, "validation": 4}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Return stores of blocks and of scenes with features, 16 tokens of an image."""
    data_dir = tmp_path_factory.mktemp("datasets")
    prepare.prepare("blocks", Options(splits=SPLITS, data_dir=data_dir))
    options = Options(splits=SPLITS, data_dir=data_dir, image_size=32, max_objects=3)
    prepare.prepare("shapes", options, name="scenes")
    features.extract(data_dir, "scenes", "patches", EncoderOptions(patch_size=8))
    return data_dir


def _squares(values: np.ndarray) -> float:
    """Return the mean squared error of the mean of the examples."""
    return float(np.square(values - values.mean(0)).mean())


def _constant_properties(true: np.ndarray, num_slots: int = 4) -> float:
    """Return the set loss of the mean row of properties, padding included."""
    true = np.pad(true, ((0, 0), (0, num_slots - true.shape[1]), (0, 0)))
    # Below 1, Huber's loss is half the square: the mean is best.
    constant = np.broadcast_to(true.mean((0, 1)), true.shape)
    return float(huber_set_loss(jnp.asarray(constant), jnp.asarray(true)).mean())


# Of each config: the data, an encoder, its width, and the loss of the best constant.
CASES = {
    "shapes": ("scenes", "patches", {}, lambda b: _squares(b["features"])),
    "shapes_property_prediction": (
        "scenes",
        "patches",
        {"feature_dim": 16},
        lambda b: _constant_properties(b["properties"]),
    ),
    "shapes_property_prediction_pixels": (
        "scenes",
        "",
        {"feature_dim": 8},
        lambda b: _constant_properties(b["properties"]),
    ),
    "blocks": (
        "blocks",
        "",
        {"feature_dim": 16},
        lambda b: _squares(b["image"] / 127.5),
    ),
    "shapes_object_discovery": (
        "scenes",
        "",
        {"feature_dim": 16},
        lambda b: _squares(b["image"] / 127.5),
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_model_beats_the_best_constant_prediction(name, folder):
    dataset, encoder, width, constant = CASES[name]
    config = importlib.import_module(f"sanorm_jax.configs.{name}").get_config()
    config.update({"data_dir": str(folder), "dataset": dataset, "encoder": encoder})
    config.optimizer.update({"warmup_steps": 10, "cosine_steps": 0})
    config.optimizer.learning_rate = 2e-3
    config.model.update({"slot_dim": 16, "hidden_dim": 16} | width)
    task = tasks.create(config, tasks.open_dataset(config))
    tx, schedule = optimizers.create(config.optimizer)
    batch = {
        field: task.dataset.read("train", field, range(BATCH)).astype(np.float32)
        for field in task.train_fields
    }
    best = constant(batch)
    step = jax.jit(make_train_step(task, tx, schedule), donate_argnums=0)
    state = create_state(task, tx, 0)
    batch |= {"position": np.arange(BATCH, dtype=np.int32)}
    for number in range(1, MAX_STEPS + 1):
        state, scalars = step(state, batch)
        if number % 10 == 0 and float(scalars["loss"]) < 0.75 * best:
            return
    pytest.fail(f"loss {scalars['loss']} after {MAX_STEPS} steps, {best} of a constant")
