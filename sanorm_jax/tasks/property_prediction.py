"""Property prediction: a set of object properties from an image or its features.

Source: Locatello et al. (NeurIPS 2020), section 4.2, with the settings of
Krimmel et al. (TMLR 2024).
"""

import jax.numpy as jnp
import numpy as np

from sanorm_jax.core.errors import check_name
from sanorm_jax.metrics import segmentation
from sanorm_jax.metrics.average_precision import (
    THRESHOLDS,
    Z_RANGES,
    average_precision,
)
from sanorm_jax.metrics.matching import huber_set_loss
from sanorm_jax.models.set_predictor import SetPredictor
from sanorm_jax.tasks.base import Task, occupancy_measures


class PropertyPredictionTask(Task):
    """Task of `SetPredictor`, with a matched Huber loss and average precision.

    If `config.encoder` is set, the features of that encoder replace the images.
    `config.model` has the options of `SetPredictor` and `SlotAttention`.
    `config.z_range` is the scale of distances in z (`reference` or `correct`, see
    `average_precision`).
    """

    train_fields = ("image", "properties")
    input_field = "image"

    def __init__(self, config, dataset, axis_name=None):
        super().__init__(config, dataset, axis_name)
        self.image_size = self.square_image_size()
        check_name("config.z_range", config.z_range, Z_RANGES)
        self.has_segmentation = "segmentation" in dataset.fields
        from_features = "features" in dataset.fields
        if from_features:
            self.input_field = "features"
            self.train_fields = ("features", "properties")
        self.evaluation_fields = (self.input_field, "properties", "num_objects")
        if self.has_segmentation:
            self.evaluation_fields += self.label_fields
        self.model = SetPredictor(
            self.slot_attention(),
            image_size=self.image_size,
            from_features=from_features,
            **self.model_options(),
        )

    def loss(self, params, batch_stats, batch, rng, step):
        """Return the mean Huber loss of the matched properties."""
        inputs = self.inputs(batch)
        out, batch_stats = self.train_forward(
            params, batch_stats, inputs, batch["position"], rng
        )
        loss = huber_set_loss(
            out["predicted_properties"], batch["properties"], out.get("slot_mask")
        ).mean()
        penalty, scalars = self.keep_penalty(out, step)
        return loss + penalty, (batch_stats, scalars)

    def evaluate(self, variables, batch, rng, num_slots, num_iterations):
        """Return the loss, inputs of average precision, and measures of the attention.

        The measures of the attention are slot occupancy and, if the data has
        segmentations, FG-ARI, ARI, mBO and mIoU at `evaluation_resolution`.
        """
        out = self.forward(variables, batch, rng, num_slots, num_iterations)
        predictions = out["predicted_properties"]  # [B, K, 19]
        slot_mask = out.get("slot_mask")
        huber = huber_set_loss(predictions, batch["properties"], slot_mask)
        if slot_mask is not None:
            # A prediction of NaN stands for no object in average precision.
            predictions = jnp.where(slot_mask[..., None], predictions, jnp.nan)
        values = {
            "huber": huber,
            "num_objects": batch["num_objects"],
            "predicted_properties": predictions,
            "properties": batch["properties"],
        }
        if self.has_segmentation:
            size = self.config.evaluation_resolution
            predicted = segmentation.upscale_segmentation(out["attention"], size)
            measures = self.segmentation_measures(batch, size, predicted, num_slots)
            values |= {f"{name}_attention": v for name, v in measures.items()}
        return values | occupancy_measures(out, "attention")

    def summarize(self, columns):
        """Return the means, and average precision at each threshold over the split."""
        values = average_precision(
            columns["predicted_properties"],
            columns["properties"],
            THRESHOLDS,
            z_range=self.config.z_range,
        )
        names = ["inf" if np.isinf(t) else f"{t:g}" for t in THRESHOLDS]
        scalars = {f"ap_{n}": float(v) for n, v in zip(names, values, strict=True)}
        return super().summarize(columns) | scalars

    def predict(self, variables, batch, rng, num_slots, num_iterations):
        """Return the properties, the attention at image size, and its argmax."""
        out = self.forward(variables, batch, rng, num_slots, num_iterations)
        # [B, K, N] -> [B, K, H, W]
        masks = segmentation.upscale_maps(out["attention"], self.image_size)
        return {
            "predicted_properties": out["predicted_properties"],
            "segmentation": jnp.argmax(masks, axis=1),
            "masks": masks,
        }
