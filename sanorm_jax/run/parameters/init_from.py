"""Initial parameters from another run, or from the original implementation."""

import pathlib
from typing import Any

import flax
import jax
import ml_collections
import numpy as np
import safetensors
import safetensors.numpy
from absl import logging

from sanorm_jax.core import published
from sanorm_jax.core.errors import UserError
from sanorm_jax.run.folder import checkpoints, contents
from sanorm_jax.run.parameters import torch_weights
from sanorm_jax.tasks.base import Task


def load_variables(task: Task, workdir: pathlib.Path, step: int | None = None):
    """Return `(variables, step)` of a run or a published model, as host arrays.

    `step` is the checkpoint to load; the newest if None.

    Raises:
      UserError: There is no such checkpoint, or it is of another model.
    """
    if published.is_published(workdir):
        return _load_published(task, workdir, step)
    template = {"params": {}, "batch_stats": {}} | _shapes(task)
    restored = checkpoints.restore(workdir, template, step, part=True)
    if restored is None:
        raise UserError(
            f"--workdir={workdir}: no checkpoint; train with --config=... first"
        )
    variables, meta = restored
    return variables, meta["step"]


def _load_published(task: Task, folder: pathlib.Path, step: int | None):
    recorded = published.read_card(folder)["step"]
    if step not in (None, recorded):
        raise UserError(
            f"--step={step}: {folder} is published with step {recorded}; choose that"
        )
    path = published.weights(folder)
    tensors = safetensors.numpy.load_file(path)
    variables = flax.traverse_util.unflatten_dict(tensors, sep="/")
    contents.compare(contents.describe(variables), _shapes(task), f"{path}")
    return {"batch_stats": {}} | variables, recorded


def load(path: pathlib.Path, task: Task) -> dict[str, Any]:
    """Return the variables of the task's model from a run or a `.safetensors` file.

    Args:
      path: Folder of a run, of which the newest checkpoint is read, name of a published
        model, or output file of `python -m feature_extraction.convert_checkpoint`.
      task: Task of the model.

    Raises:
      UserError: The path is missing, unreadable or of another model.
    """
    path = published.find(path)
    if path.is_dir():
        variables, step = load_variables(task, path)
        logging.info("parameters of step %d of %s", step, path)
        return variables
    try:
        tensors = safetensors.numpy.load_file(path)
    except FileNotFoundError:
        raise UserError(
            f"config.init_from={path}: not found; set a workdir or a .safetensors file"
        ) from None
    except safetensors.SafetensorError as error:
        raise UserError(
            f"config.init_from={path}: is not a safetensors file ({error}); convert a "
            "PyTorch checkpoint with python -m feature_extraction.convert_checkpoint"
        ) from None
    variables = torch_weights.to_flax(task.model, tensors)
    described = contents.describe(variables)
    contents.compare(described, _shapes(task), f"config.init_from={path}")
    return {"batch_stats": {}} | variables


def _shapes(task: Task) -> dict[str, Any]:
    return jax.eval_shape(task.init, jax.random.PRNGKey(0))


def init_from(state: Any, config: ml_collections.ConfigDict, task: Task) -> Any:
    """Return `state` with the variables of `config.init_from`, in its own dtypes."""
    variables = load(pathlib.Path(config.init_from), task)
    params, batch_stats = jax.tree.map(
        lambda value, new: np.asarray(value, new.dtype),
        (variables["params"], variables["batch_stats"]),
        (state.params, state.batch_stats),
    )
    return state.replace(params=params, batch_stats=batch_stats)
