"""Every shipped config builds its model and takes a step of its loss."""

import importlib
import pathlib

import jax
import numpy as np
import pytest

from sanorm_jax import optimizers, tasks
from sanorm_jax.train_step import create_state
from tests import stores

FOLDER = pathlib.Path(importlib.import_module("sanorm_jax.configs").__file__).parent
NAMES = sorted(
    path.stem
    for path in FOLDER.glob("*.py")
    if path.stem not in ("__init__", "common", "paper") and "study" not in path.stem
)


@pytest.mark.parametrize("name", NAMES)
def test_the_config_builds_and_its_docstring_is_a_recipe(name, tmp_path):
    module = importlib.import_module(f"sanorm_jax.configs.{name}")
    config = module.get_config()
    assert "python -m" in module.__doc__ or "make " in module.__doc__
    size = 32 if config.task != "dinosaur" else 16
    dataset = stores.random_dataset(tmp_path, {"train": 8, "validation": 8}, size)
    config.model = {
        key: 8 if key.endswith("dim") and value else value
        for key, value in config.model.to_dict().items()
    }
    task = tasks.create(config.lock(), dataset)
    tx, _ = optimizers.create(config.optimizer)
    state = jax.eval_shape(lambda: create_state(task, tx, 0))
    batch = {
        field: np.repeat(dataset.read("train", field, [0]), 2, 0)
        for field in task.train_fields
    } | {"position": np.arange(2, dtype=np.int32)}
    loss, _ = jax.eval_shape(
        task.loss, state.params, state.batch_stats, batch, state.rng, state.step
    )
    assert loss.shape == ()
    assert config.evaluations
