"""DINOSAUR: object discovery by reconstructing features of a frozen encoder.

Source: Seitzer et al. (ICLR 2023), evaluated as by Krimmel et al. (TMLR 2024).
"""

import math

import jax
import jax.numpy as jnp

from sanorm_jax.core.errors import UserError
from sanorm_jax.metrics import segmentation
from sanorm_jax.models.dinosaur import Dinosaur
from sanorm_jax.tasks.base import Task, occupancy_measures


class DinosaurTask(Task):
    """Trains `Dinosaur` on stored features; segments by decoder masks and attention.

    The config's `model` holds `slot_dim`, `hidden_dim`, `decoder_hidden_dim`,
    `decoder_num_hidden_layers`, `gru`, `implicit`; `evaluation_resolution` is the
    side in pixels at which segmentations are compared.
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
        """Mean squared error of the reconstructed features (equation 2)."""
        del step
        # [B, N, F]
        features = self.inputs(batch)
        out, batch_stats = self.train_forward(
            params, batch_stats, features, batch["position"], rng
        )
        loss = jnp.mean(jnp.square(out["reconstruction"] - features))
        return loss, (batch_stats, {})

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
