"""DINOSAUR: object discovery by reconstruction of a frozen encoder's features.

Source: Seitzer et al. (ICLR 2023), evaluated as by Krimmel et al. (TMLR 2024).
"""

import math

import jax.numpy as jnp

from sanorm_jax.core.errors import UserError
from sanorm_jax.metrics import segmentation
from sanorm_jax.models.dinosaur import Dinosaur
from sanorm_jax.tasks.base import Task, occupancy_measures


class DinosaurTask(Task):
    """Trains `Dinosaur` on stored features; segments by decoder masks and attention.

    `config.model` holds the options of `Dinosaur` and of `SlotAttention`.
    """

    input_field = "features"
    train_fields = ("features",)

    def __init__(self, config, dataset, axis_name=None):
        super().__init__(config, dataset, axis_name)
        if "features" not in dataset.fields:
            raise UserError(
                "config.encoder: is not set; DINOSAUR needs the features of "
                "`python -m feature_extraction.extract --encoder=...`"
            )
        self.evaluation_fields = ("features", "num_objects", *self.label_fields)
        self.num_tokens, self.feature_dim = dataset.fields["features"][0]
        if math.isqrt(self.num_tokens) ** 2 != self.num_tokens:
            raise UserError(
                f"config.encoder={config.encoder}: its {self.num_tokens} tokens do not "
                "form a square grid; extract the features of square images"
            )
        self.model = Dinosaur(
            self.slot_attention(), remat=config.remat, **self.model_options()
        )

    def loss(self, params, batch_stats, batch, rng, step):
        """Return the mean squared error of the reconstructed features (equation 2)."""
        del step
        features = self.inputs(batch)  # [B, N, F]
        out, batch_stats = self.train_forward(
            params, batch_stats, features, batch["position"], rng
        )
        loss = jnp.mean(jnp.square(out["reconstruction"] - features))
        return loss, (batch_stats, {})

    def evaluate(self, variables, batch, rng, num_slots, num_iterations):
        """Return MSE, segmentation measures and slot occupancy of masks and attention.

        The measures are `{fg_ari,ari,mbo,miou}_{masks,attention}_{refined,repeated}`:
        maps are enlarged from the token grid to `evaluation_resolution`, bilinearly or
        to the nearest token, before the argmax. Occupancy is that of the token grid.
        """
        # masks, attention: [B, K, N]
        out = self.forward(variables, batch, rng, num_slots, num_iterations)
        features = self.inputs(batch)  # [B, N, F]
        size = self.config.evaluation_resolution
        values = {
            "mse": jnp.mean(jnp.square(out["reconstruction"] - features), axis=(1, 2)),
            "num_objects": batch["num_objects"],
        }
        for maps in ("masks", "attention"):
            for method in segmentation.UPSCALE_METHODS:
                predicted = segmentation.upscale_segmentation(
                    out[maps], size, method=method
                )
                measures = self.segmentation_measures(batch, size, predicted, num_slots)
                values |= {f"{name}_{maps}_{method}": v for name, v in measures.items()}
        return values | occupancy_measures(out, "masks", "attention")

    def predict(self, variables, batch, rng, num_slots, num_iterations):
        """Return the decoder's masks and their argmax at `evaluation_resolution`."""
        out = self.forward(variables, batch, rng, num_slots, num_iterations)
        # [B, K, N] -> [B, K, H, W]
        size = self.config.evaluation_resolution
        masks = segmentation.upscale_maps(out["masks"], size)
        return {"segmentation": jnp.argmax(masks, axis=1), "masks": masks}
