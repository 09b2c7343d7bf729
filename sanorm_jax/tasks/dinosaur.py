"""DINOSAUR: object discovery by reconstruction of a frozen encoder's features.

Source: Seitzer et al. (ICLR 2023), evaluated as by Krimmel et al. (TMLR 2024).
"""

import math

import jax
import jax.numpy as jnp
import numpy as np

from sanorm_jax import optimizers
from sanorm_jax.core.errors import UserError
from sanorm_jax.metrics import segmentation
from sanorm_jax.models.dinosaur import Dinosaur
from sanorm_jax.tasks.base import Task, occupancy_measures


def slot_diversity(masks: jax.Array) -> jax.Array:
    """Return the Gini-Simpson index of the slots' shares of each image, `[B]`.

    The index is `1 - sum_k share[k]^2`, where `share[k]` is the mean of slot k's mask
    (Simpson, "Measurement of Diversity", Nature 1949). It is the probability that two
    random tokens belong to different slots: 0 if one slot covers the image, `1 - 1 / K`
    if all K slots have equal shares. Masks are `[B, K, N]` and sum to 1 over the slots.
    """
    return 1 - jnp.square(masks.mean(axis=2)).sum(axis=1)


class DinosaurTask(Task):
    """Task of `Dinosaur` on stored features, with masks from decoder and attention.

    `config.model` has the options of `Dinosaur` and `SlotAttention`.
    `config.slot_share_penalty` has knots `((step, weight), ...)` of the weight of
    `slot_diversity` in the loss.
    """

    input_field = "features"
    train_fields = ("features",)

    def __init__(self, config, dataset, axis_name=None):
        super().__init__(config, dataset, axis_name)
        if "features" not in dataset.fields:
            raise UserError(
                "config.encoder: is not set; DINOSAUR needs features, extracted with "
                "`python -m feature_extraction.extract --encoder=...`"
            )
        self.evaluation_fields = ("features", "num_objects", *self.label_fields)
        self.num_tokens, self.feature_dim = dataset.fields["features"][0]
        if math.isqrt(self.num_tokens) ** 2 != self.num_tokens:
            raise UserError(
                f"config.encoder={config.encoder}: its {self.num_tokens} tokens do not "
                "form a square grid; extract the features of square images"
            )
        knots = config.slot_share_penalty
        self.share_penalty = optimizers.piecewise_linear(knots)
        self.is_penalized = bool(np.any(np.atleast_1d(knots)[..., -1]))
        self.model = Dinosaur(
            self.slot_attention(), remat=config.remat, **self.model_options()
        )

    def loss(self, params, batch_stats, batch, rng, step):
        """Return the reconstruction error (equation 2) plus the penalties."""
        features = self.inputs(batch)  # [B, N, F]
        out, batch_stats = self.train_forward(
            params, batch_stats, features, batch["position"], rng
        )
        mse = jnp.mean(jnp.square(out["reconstruction"] - features))
        penalty, scalars = self.keep_penalty(out, step)
        if self.is_penalized:
            diversity = slot_diversity(out["masks"]).mean()
            weight = self.share_penalty(step)
            penalty += weight * diversity
            scalars |= {"slot_diversity": diversity, "slot_share_penalty": weight}
        if scalars:
            scalars |= {"mse": mse}
        return mse + penalty, (batch_stats, scalars)

    def evaluate(self, variables, batch, rng, num_slots, num_iterations):
        """Return MSE, segmentation measures and slot occupancy of masks and attention.

        The measures are `{fg_ari,ari,mbo,miou}_{masks,attention}_{refined,repeated}`.
        Before the argmax, maps are upscaled from the token grid to
        `evaluation_resolution` by bilinear (`refined`) or nearest (`repeated`)
        interpolation. Occupancy is computed on the token grid.
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
