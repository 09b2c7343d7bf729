"""Trained runs: loading, and compiled functions that apply them."""

import functools
import os
import pathlib
from collections.abc import Callable, Collection
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

from sanorm_jax import tasks
from sanorm_jax.core import published, run_data
from sanorm_jax.core.errors import UserError
from sanorm_jax.data import pipeline
from sanorm_jax.run.distribution.devices import Devices
from sanorm_jax.run.folder import workdir as workdir_lib
from sanorm_jax.run.parameters import init_from
from sanorm_jax.tasks.base import Batch, Description, Task

# Maximum number of values in the maps of a batch, which bounds the memory.
_MAX_MAP_VALUES = 2**26


class Setting(NamedTuple):
    """Numbers of slots and of iterations in an evaluation."""

    num_slots: int
    num_iterations: int


class Compiled:
    """Methods of a task, compiled once per setting and batch shape.

    The initial slots of an example depend only on the seed and its index.

    Args:
      task: Task whose methods are called.
      compile: Transformation that compiles `function(variables, batch, rng)`:
        `jax.jit`, or `Devices.compile_evaluation` to split each batch over devices.
    """

    def __init__(self, task: Task, compile: Callable[[Callable], Callable] = jax.jit):
        self._task = task
        self._compile = compile
        self._function = functools.cache(self._make)

    def __call__(
        self,
        method: str,
        variables: Any,
        batch: Batch,
        setting: Setting,
        seed: int,
        outputs: Collection[str] = (),
    ) -> dict[str, jax.Array]:
        """Return the results of a method of the task, `{name: [B, ...]}`.

        The method is `forward`, `predict` or `evaluate`. Its batch has `index`. Only
        the results named by `outputs` are computed; all if empty.
        """
        function = self._function(method, setting, tuple(outputs))
        return function(variables, batch, jax.random.PRNGKey(seed))

    def _make(self, method: str, setting: Setting, outputs: tuple[str, ...]):
        call = getattr(self._task, method)

        def function(variables, batch, rng):
            out = call(variables, batch, rng, setting.num_slots, setting.num_iterations)
            return {name: out[name] for name in outputs or out}

        return self._compile(function)


class TrainedRun:
    """A trained model, created by `open_run`.

    Its inputs are uint8 images `[B, H, W, 3]` or, if it was trained on features,
    features `[B, N, F]` as in the feature store. The initial slots depend on the seed
    and on the position in the batch.

    Attributes:
      config: Config of the run.
      task: Task of the run.
      model: Flax module, called with `model.apply(variables, ...)`.
      variables: `params` and, with batch norm, `batch_stats`.
      step: Step of the checkpoint.
      input_shape: Shape of an example.
    """

    def __init__(self, task: Task, variables: dict[str, Any], step: int):
        self.config: ml_collections.ConfigDict = task.config
        self.task = task
        self.model: nn.Module = task.model
        self.variables = variables
        self.step = step
        self.input_shape: tuple[int, ...] = task.dataset.fields[task.input_field][0]
        self._compiled = Compiled(task)

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
          inputs: Images or features, see `TrainedRun`.
          num_slots: Number of slots K; as in training if None.
          num_iterations: Number of iterations; as in training if None.
          seed: Seed of the initial slots.

        Raises:
          UserError: The inputs have the wrong shape.
        """
        return self._call("forward", inputs, num_slots, num_iterations, seed)

    def attend(self, inputs: np.ndarray, **options: Any) -> jax.Array:
        """Return the attention `[B, K, N]`, which sums to 1 over slots; see `apply`."""
        return self.apply(inputs, **options)["attention"]

    def segment(self, inputs: np.ndarray, **options: Any) -> np.ndarray:
        """Return the slot of each pixel, int32 `[B, H, W]`; see `apply`.

        This is the argmax of the decoder's masks or, without a decoder, of the
        attention. Its size is that of the training images or, for features,
        `config.evaluation_resolution`.
        """
        out = self._call("predict", inputs, **options, outputs=("segmentation",))
        return np.asarray(out["segmentation"], np.int32)

    def _call(
        self,
        method: str,
        inputs: np.ndarray,
        num_slots: int | None = None,
        num_iterations: int | None = None,
        seed: int = 0,
        outputs: Collection[str] = (),
    ) -> dict[str, jax.Array]:
        if np.shape(inputs)[1:] != tuple(self.input_shape):
            raise UserError(
                f"inputs: shape {list(np.shape(inputs))}; pass {self.task.input_field} "
                f"of shape [B, {', '.join(map(str, self.input_shape))}]"
            )
        index = jnp.arange(len(inputs), dtype=jnp.int32)
        return self._compiled(
            method,
            self.variables,
            {self.task.input_field: jnp.asarray(inputs), "index": index},
            Setting(
                num_slots or self.config.num_slots,
                num_iterations or self.config.num_iterations,
            ),
            seed,
            outputs,
        )


def open_run(
    workdir: str | os.PathLike,
    step: int | None = None,
    *,
    config: ml_collections.ConfigDict | None = None,
    dataset: pipeline.Dataset | None = None,
) -> TrainedRun:
    """Open a trained run; `sanorm_jax.load` is this function.

    A run without a checkpoint is opened with its initial parameters if its config sets
    `init_from`.

    Args:
      workdir: Folder of the run, or name of a published model.
      step: Checkpoint to load; the newest if None.
      config: Config to use; the recorded one if None.
      dataset: Dataset to apply the run to. If None, the run's data need not exist.

    Raises:
      UserError: The run, the checkpoint or the description of its data is missing, or
        the features of `dataset` have another projection.
    """
    workdir = published.find(workdir)
    config = config or workdir_lib.load_config(workdir)
    if dataset is None:
        task = describe_task(workdir, config)
    else:
        run_data.check_projection(workdir, dataset.feature_settings)
        task = tasks.create(config, dataset)
    has_checkpoint = (workdir / workdir_lib.CHECKPOINTS).exists()
    if config.init_from and not has_checkpoint and step is None:
        return TrainedRun(
            task, init_from.load(pathlib.Path(config.init_from), task), step=0
        )
    return TrainedRun(task, *init_from.load_variables(task, workdir, step))


def describe_task(workdir: pathlib.Path, config: ml_collections.ConfigDict) -> Task:
    """Return the task of a run without its data, from the record in its folder."""
    record = run_data.read(workdir)
    fields = {
        name: (tuple(shape), dtype) for name, (shape, dtype) in record["fields"].items()
    }
    settings = {"image_size": record["image_size"]}
    return tasks.create(config, Description(fields, settings))


def batch_size(
    config: ml_collections.ConfigDict, devices: Devices, values_per_example: int
) -> int:
    """Return the batch size of an evaluation, a multiple of the number of devices.

    It is at most `config.evaluation_batch_size`, and limited by the number of values in
    the maps of an example, such as masks.
    """
    num_devices = devices.num_devices * devices.hosts.count
    limit = min(config.evaluation_batch_size, _MAX_MAP_VALUES // values_per_example)
    return max(limit // num_devices, 1) * num_devices
