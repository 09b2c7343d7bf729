"""What the training loop and the evaluation know of an experiment."""

import abc
from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

from sanorm_jax import metrics, optimizers
from sanorm_jax.core.errors import UserError
from sanorm_jax.data import pipeline
from sanorm_jax.metrics import boxes, occupancy, segmentation, slot_count
from sanorm_jax.models import merging
from sanorm_jax.models.slot_attention import SlotAttention

Batch = dict[str, jax.Array]
# JAX's names; on GPUs the first two are TF32, the last is true float32.
MATMUL_PRECISIONS = ("default", "high", "highest")


def slot_noise(rng: jax.Array, ids: jax.Array, num_slots: int, slot_dim: int):
    """Return standard normal noise [B, K, D] that depends on an example's id alone.

    So neither the batch size, nor the number of devices or hosts, changes the initial
    slots of an example.

    Args:
      rng: key.
      ids: [B] row in the global batch, or index of the example in its split.
      num_slots: K.
      slot_dim: D.
    """
    keys = jax.vmap(lambda i: jax.random.fold_in(rng, i))(ids)
    return jax.vmap(lambda key: jax.random.normal(key, (num_slots, slot_dim)))(keys)


def to_unit_range(image: jax.Array) -> jax.Array:
    """Return uint8 images as float32 in [-1, 1]."""
    return image.astype(jnp.float32) / 127.5 - 1.0


class Task(abc.ABC):
    """An experiment: its model, loss, evaluation and what it reads.

    Args:
      config: the experiment's config.
      dataset: where examples come from.
      axis_name: of the devices in training, None for one device.

    Attributes:
      model: the Flax module, made by the subclass.
      input_field: of the dataset, what the model takes.
    """

    model: nn.Module
    input_field: str  # `features` or `image`
    train_fields: ClassVar[tuple[str, ...]]
    evaluation_fields: ClassVar[tuple[str, ...]]

    def __init__(
        self,
        config: ml_collections.ConfigDict,
        dataset: pipeline.Dataset,
        axis_name: str | None = None,
    ):
        self.config = config
        self.dataset = dataset
        self.axis_name = axis_name
        self.dtype = check_dtype(config.dtype)
        if config.matmul_precision not in MATMUL_PRECISIONS:
            raise UserError(
                f"config.matmul_precision={config.matmul_precision}: must be one of "
                f"{', '.join(MATMUL_PRECISIONS)}"
            )
        for name in ("num_slots", "num_iterations"):
            check_positive(f"config.{name}", config[name])
        # Runs before these fields lack them.
        self.keep_weight = optimizers.piecewise_linear(config.get("keep_penalty", 0.0))
        self.merge_threshold = config.get("merge_threshold", 0.0)
        merging.check_threshold("config.merge_threshold", self.merge_threshold)

    @abc.abstractmethod
    def init(self, rng: jax.Array) -> dict[str, Any]:
        """Return the model's variables: `params` and, with batch norm, statistics."""

    @abc.abstractmethod
    def loss(
        self, params: Any, batch_stats: Any, batch: Batch, rng: jax.Array, step: Any
    ) -> tuple[jax.Array, tuple[Any, dict[str, jax.Array]]]:
        """Return the mean loss of a device's batch, new statistics and scalars."""

    @abc.abstractmethod
    def evaluate(
        self,
        variables: Any,
        batch: Batch,
        rng: jax.Array,
        num_slots: int,
        num_iterations: int,
    ) -> dict[str, jax.Array]:
        """Return measures of each example: {name: [B, ...]}."""

    @abc.abstractmethod
    def predict(
        self,
        variables: Any,
        batch: Batch,
        rng: jax.Array,
        num_slots: int,
        num_iterations: int,
    ) -> dict[str, jax.Array]:
        """Return what figures show of each example: {name: [B, ...]}.

        Among it are `segmentation` [B, H, W] and `masks` [B, K, H, W]. The figure is
        chosen by the names, see `drawing.predictions`.

        Args:
          variables: of the model.
          batch: has `input_field` and `index`, see `forward`.
          rng: key of the evaluation.
          num_slots: K.
          num_iterations: of Slot Attention.
        """

    def inputs(self, batch: Batch) -> jax.Array:
        """Return what the model takes: features, or images in [-1, 1], as float32."""
        given = batch[self.input_field]
        if self.input_field == "image":
            return to_unit_range(given)
        return given.astype(jnp.float32)

    def forward(
        self,
        variables: Any,
        batch: Batch,
        rng: jax.Array,
        num_slots: int,
        num_iterations: int,
    ) -> dict[str, jax.Array]:
        """Return the model's outputs, in evaluation; similar slots are merged.

        Args:
          variables: of the model.
          batch: has `input_field` [B, ...] and `index` [B] int32, the examples in their
            split; their slots' noise hangs on them.
          rng: key of the evaluation.
          num_slots: K.
          num_iterations: of Slot Attention.
        """
        noise = slot_noise(rng, batch["index"], num_slots, self.slot_dim)
        with jax.default_matmul_precision(self.config.matmul_precision):
            out = self.model.apply(
                variables,
                self.inputs(batch),
                train=False,
                noise=noise,
                num_slots=num_slots,
                num_iterations=num_iterations,
            )
        if self.merge_threshold:
            out = merging.merge_slots(out, self.merge_threshold)
        return out

    def train_forward(
        self,
        params: Any,
        batch_stats: Any,
        inputs: jax.Array,
        ids: jax.Array,
        rng: jax.Array,
    ) -> tuple[dict[str, jax.Array], Any]:
        """Return the model's outputs in training, and its new running statistics.

        Args:
          params: of the model.
          batch_stats: its statistics, empty without batch norm.
          inputs: [B, ...] as the model takes them.
          ids: [B] int32, rows in the global batch.
          rng: key of the step.
        """
        num_slots = self.config.num_slots
        options = {"noise": slot_noise(rng, ids, num_slots, self.slot_dim)}
        if self.model.slot_attention.adaptive:
            keep_rng = jax.random.fold_in(rng, 1)
            options["keep_noise"] = slot_noise(keep_rng, ids, num_slots, 1)[..., 0]
        # The products of the gradient inherit the precision.
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
        """Return the penalty on kept slots of an adaptive model, and its scalars.

        It is the expected number of slots kept, times `config.keep_penalty` (AdaSlot,
        Fan et al., CVPR 2024). For other models it is 0.

        Args:
          out: Outputs of the model.
          step: Number of the step.
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

    @property
    def slot_dim(self) -> int:
        """Features D of a slot."""
        return self.model.slot_attention.slot_dim

    def slot_attention(self) -> SlotAttention:
        """Return the config's Slot Attention, for the task's model."""
        config = self.config
        fields = SlotAttention.__dataclass_fields__
        options = {k: v for k, v in config.model.to_dict().items() if k in fields}
        return SlotAttention(
            num_slots=config.num_slots,
            num_iterations=config.num_iterations,
            update_normalization=config.update_normalization,
            axis_name=self.axis_name,
            dtype=self.dtype,
            **options,
        )

    def model_options(self) -> dict[str, Any]:
        """Return the fields of `config.model` that are not of Slot Attention."""
        fields = SlotAttention.__dataclass_fields__
        return {k: v for k, v in self.config.model.to_dict().items() if k not in fields}

    def square_image_size(self) -> int:
        """Return the side of the images, or raises `UserError` if not square."""
        height, width, _ = self.dataset.fields["image"][0]
        if height != width:
            raise UserError(
                f"config.dataset={self.config.dataset}: images of {height} x {width} "
                "are not square; prepare it with --image_size"
            )
        return height

    @property
    def label_fields(self) -> tuple[str, ...]:
        """What `segmentation_measures` reads of the dataset."""
        has_classes = "category" in self.dataset.fields
        return ("segmentation", "category") if has_classes else ("segmentation",)

    def segmentation_measures(
        self, batch: Batch, size: int, predicted: jax.Array, num_predicted: int
    ) -> dict[str, jax.Array]:
        """Return the measures [B] of predicted label maps, see docs/evaluation.md.

        Where the dataset names the classes of objects (`category`), also mBO and mIoU
        of classes.

        Args:
          batch: has `label_fields`; the true labels are resized to `size`.
          size: side in pixels at which labels are compared.
          predicted: [B, size, size] or [B, size * size].
          num_predicted: number of predicted labels.
        """
        classes = {}
        if "category" in batch:
            # Label 0 is the background, label i + 1 the object of row i.
            category = jnp.pad(batch["category"], ((0, 0), (1, 0)), constant_values=-1)
            classes = {
                "classes": category,
                "num_classes": len(self.dataset.settings["categories"]),
            }
        true = segmentation.resize_labels(batch["segmentation"], size)
        sizes = {
            "num_true": max_objects(self.dataset) + 1,
            "num_predicted": num_predicted,
        }
        return (
            segmentation.segmentation_metrics(true, predicted, **sizes, **classes)
            | slot_count.count_metrics(true, predicted, **sizes)
            | boxes.box_metrics(true, predicted, **sizes)
        )

    def summarize(self, columns: dict[str, np.ndarray]) -> dict[str, float]:
        """Return the scalars of a split from the measures of all its examples.

        Args:
          columns: what `evaluate` returned, [examples, ...], in order of example.
        """
        return {
            name: metrics.mean(name, values)
            for name, values in columns.items()
            if values.ndim == 1
        }


def occupancy_measures(out: dict[str, jax.Array], *names: str) -> dict[str, jax.Array]:
    """Return `occupancy.slot_occupancy` of each named [B, K, N] output of a model."""
    return {
        f"{measure}_{name}": value
        for name in names
        for measure, value in occupancy.slot_occupancy(
            out[name], out.get("slot_mask")
        ).items()
    }


def check_positive(name: str, value: int):
    """Raise `UserError` unless `value` is a whole number above zero."""
    if not isinstance(value, int) or value <= 0:
        raise UserError(f"{name}={value}: must be a whole number above 0")


def check_dtype(name: str) -> jnp.dtype:
    """Return the compute dtype of that name, or raises `UserError`."""
    if name not in ("float32", "bfloat16"):
        raise UserError(f"config.dtype={name}: must be float32 or bfloat16")
    return jnp.dtype(name)


def max_objects(dataset: pipeline.Dataset) -> int:
    """Return the most objects that an image of the dataset can have."""
    return dataset.settings["max_objects"]
