"""DINOSAUR: object discovery by reconstructing features of a frozen encoder.

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

    `1 - sum_k share[k]^2`, where `share[k]` is the mean of slot k's mask (Simpson,
    "Measurement of Diversity", Nature 1949). It is the probability that two random
    tokens belong to different slots: 0 if one slot takes the image, `1 - 1 / K` if
    all K slots take equal shares.

    Args:
      masks: Decoder masks `[B, K, N]`, which sum to 1 over the slots.
    """
    return 1 - jnp.square(masks.mean(axis=2)).sum(axis=1)


class DinosaurTask(Task):
    """Trains `Dinosaur` on stored features; segments by decoder masks and attention.

    The config's `model` holds `slot_dim`, `hidden_dim`, `decoder_hidden_dim`,
    `decoder_num_hidden_layers`, `gru`, `implicit`; `evaluation_resolution` is the
    side in pixels at which segmentations are compared. `slot_share_penalty` holds
    knots ((step, weight), ...) of the weight of `slot_diversity` in the loss.
    """

    input_field = "features"
    train_fields = ("features",)

    def __init__(self, config, dataset, axis_name=None):
        super().__init__(config, dataset, axis_name)
        if "features" not in dataset.fields:
            raise UserError(
                "config.encoder: not set; DINOSAUR trains on the features of "
                "`python -m feature_extraction.extract --encoder=...`"
            )
        self.evaluation_fields = ("features", "num_objects", *self.label_fields)
        self.num_tokens, self.feature_dim = dataset.fields["features"][0]
        grid = math.isqrt(self.num_tokens)
        if grid**2 != self.num_tokens:
            raise UserError(
                f"config.encoder={config.encoder}: {self.num_tokens} tokens are no "
                "square grid"
            )
        knots = config.get("slot_share_penalty", 0.0)  # runs before it lack the field
        self.share_penalty = optimizers.piecewise_linear(knots)
        self.is_penalized = bool(np.any(np.atleast_1d(knots)[..., -1]))
        self.model = Dinosaur(
            self.slot_attention(), remat=config.remat, **self.model_options()
        )

    def init(self, rng):
        """See `Task.init`."""
        params_rng, slots_rng = jax.random.split(rng)
        features = jnp.zeros((1, self.num_tokens, self.feature_dim))
        rngs = {"params": params_rng, "slots": slots_rng}
        return self.model.init(rngs, features, train=True)

    def loss(self, params, batch_stats, batch, rng, step):
        """Mean squared error of the features (equation 2), and the penalties."""
        # [B, N, F]
        features = self.inputs(batch)
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
        """Return MSE, and FG-ARI, ARI, mBO, mIoU of masks and attention.

        `{fg_ari,ari,mbo,miou}_{masks,attention}_{refined,repeated}`: maps at token
        resolution enlarged bilinearly or by repetition to `evaluation_resolution`, then
        argmax; of classes as `mbo_class_...` where the data names them. Occupancy of
        the slots at token resolution.
        """
        out = self.forward(variables, batch, rng, num_slots, num_iterations)
        features = self.inputs(batch)
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
        """Return the decoder's masks and their argmax at the evaluation's size."""
        out = self.forward(variables, batch, rng, num_slots, num_iterations)
        size = self.config.evaluation_resolution
        masks = segmentation.upscale_maps(out["masks"], size)
        return {"segmentation": jnp.argmax(masks, axis=1), "masks": masks}
