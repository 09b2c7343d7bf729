"""Configs of runs that are small enough to train in a test."""

import importlib
import pathlib

import ml_collections

from tests import stores

SPLITS = {"train": 40, "validation": 10}


def config(
    data_dir: pathlib.Path, name: str = "dinosaur", /, **changes
) -> ml_collections.ConfigDict:
    """Return the config of a task, scaled down to random images of 16 x 16 pixels.

    Args:
      data_dir: Folder of `stores.random_dataset`.
      name: Name of the config, which is also the name of its task.
      **changes: Values by field, such as `optimizer__name` for `optimizer.name`.
    """
    result = importlib.import_module(f"sanorm_jax.configs.{name}").get_config()
    result.update(
        {
            "data_dir": str(data_dir),
            "dataset": "random",
            "encoder": "random" if name == "dinosaur" else "",
            "batch_size": 8,
            "evaluation_batch_size": 8,
            "num_slots": 4,
            "num_iterations": 2,
            "num_train_steps": 6,
            "log_every_steps": 2,
            "evaluate_every_steps": 4,
            "checkpoint_every_steps": 2,
            "num_figure_examples": 0,
            "compilation_cache": False,
        }
    )
    result.optimizer.warmup_steps = 2
    result.model.update({"slot_dim": 8, "hidden_dim": 8})
    for field in ("feature_dim", "decoder_hidden_dim", "property_hidden_dim"):
        if field in result.model:
            result.model[field] = 8
    if name == "object_discovery":
        result.model.decoder = "stationary"
    if "evaluation_resolution" in result:
        result.evaluation_resolution = 16
    result.evaluations = {"default": {"num_slots": 5, "num_iterations": 2}}
    for field, value in changes.items():
        *path, last = field.split("__")
        section = result
        for part in path:
            section = section[part]
        section[last] = value
    return result.lock()


def data_dir(path: pathlib.Path) -> pathlib.Path:
    """Write the random dataset that `config` reads."""
    stores.random_dataset(path, SPLITS)
    return path
