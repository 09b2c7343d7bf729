"""Interface between a task and the training and evaluation loops."""

import abc
import dataclasses
import functools
from collections.abc import Mapping
from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

from sanorm_jax import metrics, optimizers
from sanorm_jax.core.errors import UserError, check_name
from sanorm_jax.data import pipeline
from sanorm_jax.metrics import boxes, occupancy, segmentation, slot_count
from sanorm_jax.models import merging
from sanorm_jax.models.slot_attention import SlotAttention

Batch = dict[str, jax.Array]
DTYPES = ("float32", "bfloat16")
# JAX's names. On GPUs, the first two use TF32 and the last float32.
MATMUL_PRECISIONS = ("default", "high", "highest")


def slot_noise(rng: jax.Array, ids: jax.Array, num_slots: int, slot_dim: int):
    """Return standard normal noise `[B, K, D]`, a function of each example's id.

    The initial slots of an example therefore do not depend on the batch size or on the
    number of devices. `ids` `[B]` are rows in the global batch, or indices in the
    split.
    """
    keys = jax.vmap(lambda i: jax.random.fold_in(rng, i))(ids)
    return jax.vmap(lambda key: jax.random.normal(key, (num_slots, slot_dim)))(keys)


@dataclasses.dataclass(frozen=True)
class Description:
    """The attributes of a `pipeline.Dataset` that a task needs without its data."""

    fields: Mapping[str, tuple[tuple[int, ...], str]]
    settings: Mapping[str, Any]


class Task(abc.ABC):
    """Model, loss, evaluation and inputs of an experiment.

    Attributes:
      axis_name: Name of the `pmap` axis in training; None for one device.
      model: Flax module, set by the subclass.
      input_field: Input field of the model, `features` or `image`.
      train_fields: Fields of a training batch.
      evaluation_fields: Fields of an evaluation batch.

    Raises:
      UserError: An option is unknown.
    """

    model: nn.Module
    input_field: str
    train_fields: ClassVar[tuple[str, ...]]
    evaluation_fields: ClassVar[tuple[str, ...]]

    def __init__(
        self,
        config: ml_collections.ConfigDict,
        dataset: pipeline.Dataset | Description,
        axis_name: str | None = None,
    ):
        self.config = config
        self.dataset = dataset
        self.axis_name = axis_name
        check_name("config.dtype", config.dtype, DTYPES)
        check_name(
            "config.matmul_precision", config.matmul_precision, MATMUL_PRECISIONS
        )
        self.keep_weight = optimizers.piecewise_linear(config.keep_penalty)
        merging.check_threshold("config.merge_threshold", config.merge_threshold)

    @abc.abstractmethod
    def loss(
        self, params: Any, batch_stats: Any, batch: Batch, rng: jax.Array, step: Any
    ) -> tuple[jax.Array, tuple[Any, dict[str, jax.Array]]]:
        """Return the mean loss of a device's batch, new statistics and scalars."""

    @abc.abstractmethod
    def evaluate(self, variables, batch, rng, num_slots, num_iterations):
        """Return the measures of each example, `{name: [B, ...]}`.

        See `forward` for the arguments.
        """

    @abc.abstractmethod
    def predict(self, variables, batch, rng, num_slots, num_iterations):
        """Return the predictions shown in figures, `{name: [B, ...]}`.

        They include `segmentation` `[B, H, W]` and `masks` `[B, K, H, W]`. Their names
        select the figure, see `drawing.predictions`. See `forward` for the arguments.
        """

    def init(self, rng: jax.Array) -> dict[str, Any]:
        """Return initial variables: `params` and, with batch norm, `batch_stats`."""
        params_rng, slots_rng = jax.random.split(rng)
        shape, _ = self.dataset.fields[self.input_field]
        rngs = {"params": params_rng, "slots": slots_rng}
        return self.model.init(rngs, jnp.zeros((1, *shape)), train=True)

    def inputs(self, batch: Batch) -> jax.Array:
        """Return the model's inputs as float32, images in [-1, 1]."""
        inputs = batch[self.input_field].astype(jnp.float32)
        return inputs / 127.5 - 1.0 if self.input_field == "image" else inputs

    def forward(
        self,
        variables: Any,
        batch: Batch,
        rng: jax.Array,
        num_slots: int,
        num_iterations: int,
    ) -> dict[str, jax.Array]:
        """Return the model's outputs in evaluation, with similar slots merged.

        Args:
          variables: Variables of the model.
          batch: Batch with `input_field` `[B, ...]` and `index` `[B]` int32, the index
            of each example in its split, which determines the noise of its slots.
          rng: Key of the evaluation.
          num_slots: Number of slots K.
          num_iterations: Number of iterations of Slot Attention.
        """
        slot_dim = self.model.slot_attention.slot_dim
        noise = slot_noise(rng, batch["index"], num_slots, slot_dim)
        with jax.default_matmul_precision(self.config.matmul_precision):
            out = self.model.apply(
                variables,
                self.inputs(batch),
                train=False,
                noise=noise,
                num_slots=num_slots,
                num_iterations=num_iterations,
            )
        if self.config.merge_threshold:
            out = merging.merge_slots(out, self.config.merge_threshold)
        return out

    def train_forward(
        self,
        params: Any,
        batch_stats: Any,
        inputs: jax.Array,
        ids: jax.Array,
        rng: jax.Array,
    ) -> tuple[dict[str, jax.Array], Any]:
        """Return the model's outputs in training and the updated running statistics.

        Args:
          params: Parameters of the model.
          batch_stats: Running statistics; empty without batch norm.
          inputs: Inputs `[B, ...]`.
          ids: Rows of the examples in the global batch, `[B]` int32.
          rng: Key of the step.
        """
        num_slots = self.config.num_slots
        slot_dim = self.model.slot_attention.slot_dim
        options = {"noise": slot_noise(rng, ids, num_slots, slot_dim)}
        if self.model.slot_attention.adaptive:
            keep_rng = jax.random.fold_in(rng, 1)
            options["keep_noise"] = slot_noise(keep_rng, ids, num_slots, 1)[..., 0]
        # The matrix products of the gradient inherit the precision.
        with jax.default_matmul_precision(self.config.matmul_precision):
            out, updated = self.model.apply(
                {"params": params, "batch_stats": batch_stats},
                inputs,
                train=True,
                **options,
                mutable=["batch_stats"],
            )
        return out, updated.get("batch_stats", {})

    def keep_penalty(
        self, out: dict[str, jax.Array], step: Any
    ) -> tuple[jax.Array | float, dict[str, jax.Array]]:
        """Return the penalty on kept slots of an adaptive model, and scalars to log.

        The penalty is the expected number of kept slots times `config.keep_penalty`
        (AdaSlot, Fan et al., CVPR 2024). For other models, it is 0.
        """
        if "keep_probability" not in out:
            return 0.0, {}
        weight = self.keep_weight(step)
        kept = out["keep_probability"].sum(axis=1).mean()
        scalars = {
            "kept_slots": out["slot_mask"].sum(axis=1).mean(),
            "keep_penalty": weight,
        }
        return weight * kept, scalars

    def slot_attention(self) -> SlotAttention:
        """Return the Slot Attention module of the config."""
        config = self.config
        fields = SlotAttention.__dataclass_fields__
        options = {k: v for k, v in config.model.to_dict().items() if k in fields}
        return SlotAttention(
            num_slots=config.num_slots,
            num_iterations=config.num_iterations,
            update_normalization=config.update_normalization,
            axis_name=self.axis_name,
            dtype=jnp.dtype(config.dtype),
            **options,
        )

    def model_options(self) -> dict[str, Any]:
        """Return the options in `config.model` that are not those of Slot Attention."""
        fields = SlotAttention.__dataclass_fields__
        return {k: v for k, v in self.config.model.to_dict().items() if k not in fields}

    def square_image_size(self) -> int:
        """Return the side of the images; raise `UserError` if they are not square."""
        height, width, _ = self.dataset.fields["image"][0]
        if height != width:
            raise UserError(
                f"config.dataset={self.config.dataset}: images of {height} x {width} "
                "are not square; prepare it with --image_size"
            )
        return height

    @property
    def label_fields(self) -> tuple[str, ...]:
        """Fields of the dataset that `segmentation_measures` reads."""
        has_classes = "category" in self.dataset.fields
        return ("segmentation", "category") if has_classes else ("segmentation",)

    def segmentation_measures(
        self, batch: Batch, size: int, predicted: jax.Array, num_predicted: int
    ) -> dict[str, jax.Array]:
        """Return the measures `[B]` of predicted label maps, see docs/evaluation.md.

        If the dataset has classes (`category`), include mBO and mIoU of classes.

        Args:
          batch: Batch with `label_fields`. The labels are resized to `size`.
          size: Side of the compared label maps in pixels.
          predicted: Labels `[B, size, size]` or `[B, size * size]`.
          num_predicted: Number of predicted labels.
        """
        classes = {}
        if "category" in batch:
            # Label 0 is the background, and label i + 1 the object in row i.
            category = jnp.pad(batch["category"], ((0, 0), (1, 0)), constant_values=-1)
            classes = {
                "classes": category,
                "num_classes": len(self.dataset.settings["categories"]),
            }
        true = segmentation.resize_labels(batch["segmentation"], size)
        sizes = {
            "num_true": self.dataset.settings["max_objects"] + 1,
            "num_predicted": num_predicted,
        }
        return _measures_of_labels(true, predicted, **sizes, **classes)

    def summarize(self, columns: dict[str, np.ndarray]) -> dict[str, float]:
        """Return the scalars of a split from `evaluate` of its examples, `[n, ...]`."""
        return {
            name: metrics.mean(name, values)
            for name, values in columns.items()
            if values.ndim == 1 and name != "num_objects"
        }


# Under its own `jit`, it is traced once for all label maps of the same shape.
@functools.partial(
    jax.jit, static_argnames=("num_true", "num_predicted", "num_classes")
)
def _measures_of_labels(
    true: jax.Array,
    predicted: jax.Array,
    *,
    num_true: int,
    num_predicted: int,
    **classes: Any,
) -> dict[str, jax.Array]:
    sizes = {"num_true": num_true, "num_predicted": num_predicted}
    return (
        segmentation.segmentation_metrics(true, predicted, **sizes, **classes)
        | slot_count.count_metrics(true, predicted, **sizes)
        | boxes.box_metrics(true, predicted, **sizes)
    )


def occupancy_measures(out: dict[str, jax.Array], *names: str) -> dict[str, jax.Array]:
    """Return `occupancy.slot_occupancy` of each named output `[B, K, N]` of a model."""
    return {
        f"{measure}_{name}": value
        for name in names
        for measure, value in occupancy.slot_occupancy(
            out[name], out.get("slot_mask")
        ).items()
    }
