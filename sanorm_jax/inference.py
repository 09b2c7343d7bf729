"""A trained run as a function of images, or of features: no store is needed."""

import dataclasses
import functools
import os
import pathlib
from collections.abc import Callable
from typing import Any, TypedDict, Unpack

import flax.linen as nn
import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

from sanorm_jax import tasks
from sanorm_jax.core import run_data
from sanorm_jax.core.errors import UserError
from sanorm_jax.run.folder import workdir as workdir_lib
from sanorm_jax.run.parameters.init_from import load_variables
from sanorm_jax.tasks.base import Task


@dataclasses.dataclass(frozen=True)
class _Description:
    """What a task asks of a dataset before it reads any of it."""

    fields: dict[str, tuple[tuple[int, ...], str]]
    settings: dict[str, Any]


class CallOptions(TypedDict, total=False):
    """What else a call of a trained run takes; see `TrainedRun.apply`."""

    num_slots: int | None
    num_iterations: int | None
    seed: int


class TrainedRun:
    """A trained model and what it takes. Made by `load`.

    Inputs are uint8 images `[B, H, W, 3]` or, where the run was trained on features,
    these `[B, N, F]`, as its store holds them. Slots are drawn by `seed` and an
    example's place in the batch.

    Attributes:
      config: the run's config.
      model: the Flax module; `model.apply(variables, ...)` is all there is.
      variables: `params` and, with batch norm, `batch_stats`.
      step: that the variables are of.
      input_shape: of an example.
    """

    def __init__(
        self,
        config: ml_collections.ConfigDict,
        task: Task,
        variables: dict[str, Any],
        step: int,
    ):
        self.config = config
        self.model: nn.Module = task.model
        self.variables = variables
        self.step = step
        self.input_shape: tuple[int, ...] = task.dataset.fields[task.input_field][0]
        self._task = task
        self._compiled = functools.cache(self._compile)

    def apply(
        self,
        inputs: np.ndarray,
        *,
        num_slots: int | None = None,
        num_iterations: int | None = None,
        seed: int = 0,
    ) -> dict[str, jax.Array]:
        """Return all outputs of the model, such as `slots` and `attention`.

        Args:
          inputs: images or features, see above.
          num_slots: default as in training.
          num_iterations: default as in training.
          seed: of the initial slots.

        Raises:
          UserError: inputs of another shape.
        """
        return self._run("forward", inputs, num_slots, num_iterations, seed)

    def attend(self, inputs: np.ndarray, **options: Unpack[CallOptions]) -> jax.Array:
        """Return the attention `[B, K, N]`, 1 over the slots; see `apply`."""
        return self.apply(inputs, **options)["attention"]

    def segment(self, inputs: np.ndarray, **options: Unpack[CallOptions]) -> np.ndarray:
        """Return the slot of each pixel, int32 `[B, H, W]`; arguments as of `apply`.

        By the decoder's masks, without one by the attention; at the images' size in
        training or, of features, at `config.evaluation_resolution`.
        """
        out = self._run("predict", inputs, **options)
        return np.asarray(out["segmentation"], np.int32)

    def _compile(self, method: str, num_slots: int, num_iterations: int) -> Callable:
        function = getattr(self._task, method)
        return jax.jit(
            lambda variables, batch, key: function(
                variables, batch, key, num_slots, num_iterations
            )
        )

    def _run(
        self,
        method: str,
        inputs: np.ndarray,
        num_slots: int | None = None,
        num_iterations: int | None = None,
        seed: int = 0,
    ) -> dict[str, jax.Array]:
        if np.shape(inputs)[1:] != tuple(self.input_shape):
            raise UserError(
                f"inputs of shape {list(np.shape(inputs))}: the run takes "
                f"{self._task.input_field} of shape [B, "
                f"{', '.join(map(str, self.input_shape))}]"
            )
        function = self._compiled(
            method,
            num_slots or self.config.num_slots,
            num_iterations or self.config.num_iterations,
        )
        index = jnp.arange(len(inputs), dtype=jnp.int32)
        batch = {self._task.input_field: jnp.asarray(inputs), "index": index}
        return function(self.variables, batch, jax.random.PRNGKey(seed))


def load(workdir: str | os.PathLike, step: int | None = None) -> TrainedRun:
    """Return a trained run, to segment images with.

    Args:
      workdir: folder of the run; its data may be elsewhere, or gone.
      step: of the checkpoint, default the newest.

    Raises:
      UserError: no run there, or no such checkpoint.
      UserError: its note of the data is missing.
    """
    workdir = pathlib.Path(workdir)
    config = workdir_lib.load_config(workdir)
    noted = run_data.read(workdir)
    fields = {
        name: (tuple(shape), dtype) for name, (shape, dtype) in noted["fields"].items()
    }
    dataset = _Description(fields, {"image_size": noted["image_size"]})
    task = tasks.create(config, dataset)  # ty: ignore[invalid-argument-type]
    variables, step = load_variables(task, workdir, step)
    return TrainedRun(config, task, variables, step)
