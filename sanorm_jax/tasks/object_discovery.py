"""Object discovery: an autoencoder that reconstructs images slot by slot.

Source: Locatello et al. (NeurIPS 2020), section 4.1, with the settings of
Krimmel et al. (TMLR 2024).
"""

import jax
import jax.numpy as jnp

from sanorm_jax import optimizers
from sanorm_jax.core.errors import UserError
from sanorm_jax.metrics import segmentation
from sanorm_jax.models.autoencoder import Autoencoder
from sanorm_jax.tasks.base import Task, occupancy_measures

AUGMENTATIONS = ("flip", "rotate_90")


def augment(images: jax.Array, rng: jax.Array, ids: jax.Array, names) -> jax.Array:
    """Return images [B, H, W, 3], each flipped or turned at random.

    Args:
      images: [B, H, W, 3]; square where they are turned.
      rng: key of the step.
      ids: [B] rows in the global batch; an image's chance depends on them alone.
      names: some of `flip` (left to right, half of the images) and `rotate_90`
        (by a random multiple of 90 degrees).
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
    """Trains `Autoencoder` on images; segments by the decoder's masks and attention.

    The config's `model` holds the options of `Autoencoder`; `augmentations` names
    some of `AUGMENTATIONS`; `loss_weight` holds knots ((step, weight), ...).
    """

    input_field = "image"
    train_fields = ("image",)

    def __init__(self, config, dataset, axis_name=None):
        super().__init__(config, dataset, axis_name)
        self.image_size = self.square_image_size()
        for name in config.augmentations:
            if name not in AUGMENTATIONS:
                raise UserError(
                    f"config.augmentations: {name} is none of "
                    f"{', '.join(AUGMENTATIONS)}"
                )
        self.evaluation_fields = ("image", "num_objects", *self.label_fields)
        self.loss_weight = optimizers.piecewise_linear(config.loss_weight)
        self.model = Autoencoder(
            self.slot_attention(), image_size=self.image_size, **self.model_options()
        )

    def init(self, rng):
        """See `Task.init`."""
        params_rng, slots_rng = jax.random.split(rng)
        image = jnp.zeros((1, self.image_size, self.image_size, 3))
        rngs = {"params": params_rng, "slots": slots_rng}
        return self.model.init(rngs, image, train=True)

    def loss(self, params, batch_stats, batch, rng, step):
        """Mean squared error of the reconstructed image in [-1, 1], weighted."""
        noise_rng, augment_rng = jax.random.split(rng)
        # [B, H, W, 3]
        image = augment(
            self.inputs(batch),
            augment_rng,
            batch["position"],
            self.config.augmentations,
        )
        out, batch_stats = self.train_forward(
            params, batch_stats, image, batch["position"], noise_rng
        )
        mse = jnp.mean(jnp.square(out["reconstruction"] - image))
        weight = self.loss_weight(step)
        penalty, scalars = self.keep_penalty(out, step)
        scalars |= {"mse": mse, "loss_weight": weight}
        return weight * mse + penalty, (batch_stats, scalars)

    def evaluate(self, variables, batch, rng, num_slots, num_iterations):
        """Return MSE, and FG-ARI, ARI, mBO, mIoU of masks and attention.

        Both maps are brought to `evaluation_resolution`; of classes as
        `mbo_class_...` where the data names them. Occupancy of the slots.
        """
        out = self.forward(variables, batch, rng, num_slots, num_iterations)
        image = self.inputs(batch)
        size = self.config.evaluation_resolution
        values = {
            "mse": jnp.mean(jnp.square(out["reconstruction"] - image), axis=(1, 2, 3)),
            "num_objects": batch["num_objects"],
        }
        # [B, K, H W]
        out["masks"] = out["masks"].reshape(out["attention"].shape)
        for name in ("masks", "attention"):
            predicted = segmentation.upscale_segmentation(out[name], size)
            measures = self.segmentation_measures(batch, size, predicted, num_slots)
            values |= {f"{measure}_{name}": v for measure, v in measures.items()}
        return values | occupancy_measures(out, "masks", "attention")

    def predict(self, variables, batch, rng, num_slots, num_iterations):
        """Return the decoder's masks, their argmax, and the reconstruction."""
        out = self.forward(variables, batch, rng, num_slots, num_iterations)
        masks = out["masks"]
        return {
            "segmentation": jnp.argmax(masks, axis=1),
            "masks": masks,
            "reconstruction": out["reconstruction"],
        }
