"""Object discovery: an autoencoder that reconstructs images slot by slot.

Source: Locatello et al. (NeurIPS 2020), section 4.1, with the settings of
Krimmel et al. (TMLR 2024).
"""

import jax
import jax.numpy as jnp

from sanorm_jax import optimizers
from sanorm_jax.core.errors import check_name
from sanorm_jax.metrics import segmentation
from sanorm_jax.models.autoencoder import Autoencoder
from sanorm_jax.tasks.base import Task, occupancy_measures

AUGMENTATIONS = ("flip", "rotate_90")


def augment(images: jax.Array, rng: jax.Array, ids: jax.Array, names) -> jax.Array:
    """Return images `[B, H, W, 3]`, each flipped or rotated at random.

    `flip` is left to right with probability 1/2, and `rotate_90` by a random multiple
    of 90 degrees, for square images. `ids` `[B]` are rows of the global batch, so the
    result does not depend on the number of devices.
    """

    def one(image, i):
        flip_rng, turn_rng = jax.random.split(jax.random.fold_in(rng, i))
        if "flip" in names:
            flipped = jax.random.bernoulli(flip_rng)
            image = jnp.where(flipped, image[:, ::-1], image)
        if "rotate_90" in names:
            turns = jax.random.randint(turn_rng, (), 0, 4)
            image = jnp.stack([jnp.rot90(image, k) for k in range(4)])[turns]
        return image

    return jax.vmap(one)(images, ids) if names else images


class ObjectDiscoveryTask(Task):
    """Task of `Autoencoder` on images, with masks from decoder and attention.

    `config.model` has the options of `Autoencoder` and `SlotAttention`,
    `config.augmentations` is a subset of `AUGMENTATIONS`, and `config.loss_weight` has
    the knots `((step, weight), ...)` of a schedule.
    """

    input_field = "image"
    train_fields = ("image",)

    def __init__(self, config, dataset, axis_name=None):
        super().__init__(config, dataset, axis_name)
        self.image_size = self.square_image_size()
        for name in config.augmentations:
            check_name("config.augmentations", name, AUGMENTATIONS)
        self.evaluation_fields = ("image", "num_objects", *self.label_fields)
        self.loss_weight = optimizers.piecewise_linear(config.loss_weight)
        self.model = Autoencoder(
            self.slot_attention(), image_size=self.image_size, **self.model_options()
        )

    def loss(self, params, batch_stats, batch, rng, step):
        """Return the weighted mean squared error of the image, scaled to [-1, 1]."""
        noise_rng, augment_rng = jax.random.split(rng)
        ids = batch["position"]
        # [B, H, W, 3]
        image = augment(self.inputs(batch), augment_rng, ids, self.config.augmentations)
        out, batch_stats = self.train_forward(
            params, batch_stats, image, ids, noise_rng
        )
        mse = jnp.mean(jnp.square(out["reconstruction"] - image))
        weight = self.loss_weight(step)
        penalty, scalars = self.keep_penalty(out, step)
        scalars |= {"mse": mse, "loss_weight": weight}
        return weight * mse + penalty, (batch_stats, scalars)

    def evaluate(self, variables, batch, rng, num_slots, num_iterations):
        """Return MSE, segmentation measures and slot occupancy of masks and attention.

        Both maps are resized to `evaluation_resolution` before the argmax.
        """
        out = self.forward(variables, batch, rng, num_slots, num_iterations)
        image = self.inputs(batch)  # [B, H, W, 3]
        size = self.config.evaluation_resolution
        values = {
            "mse": jnp.mean(jnp.square(out["reconstruction"] - image), axis=(1, 2, 3)),
            "num_objects": batch["num_objects"],
        }
        # [B, K, H, W] -> [B, K, N]
        out["masks"] = out["masks"].reshape(out["attention"].shape)
        for name in ("masks", "attention"):
            predicted = segmentation.upscale_segmentation(out[name], size)
            measures = self.segmentation_measures(batch, size, predicted, num_slots)
            values |= {f"{measure}_{name}": v for measure, v in measures.items()}
        return values | occupancy_measures(out, "masks", "attention")

    def predict(self, variables, batch, rng, num_slots, num_iterations):
        """Return the decoder's masks, their argmax and the reconstruction."""
        out = self.forward(variables, batch, rng, num_slots, num_iterations)
        masks = out["masks"]  # [B, K, H, W]
        return {
            "segmentation": jnp.argmax(masks, axis=1),
            "masks": masks,
            "reconstruction": out["reconstruction"],
        }
