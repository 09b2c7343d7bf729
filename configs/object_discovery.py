"""Object discovery on CLEVR with masks and the paper's settings.

    python -m data.prepare --dataset=clevr_with_masks
    python -m sanorm_jax.main --config=configs/object_discovery.py \
        --config.update_normalization=weighted_sum

Trains 7 slots with 3 iterations on images of 128 x 128 pixels for 500,000 steps at
batch size 64. Evaluates with 11 slots and 5 iterations, and as trained.

Expected result: as in the paper's table for CLEVR. Not reproduced yet.
"""

import ml_collections

from sanorm_jax.configs import common


def get_config() -> ml_collections.ConfigDict:
    config = common.get_config()
    config.task = "object_discovery"
    config.dataset = "clevr_with_masks"
    config.max_objects = 6
    config.evaluation_max_objects = 10
    config.augmentations = ("flip",)  # Tetrominoes: ("flip", "rotate_90")
    config.loss_weight = ((0, 1.0),)  # knots (step, weight), interpolated linearly

    config.model.feature_dim = 64
    config.model.encoder_kernel_size = 5
    config.model.decoder = "expanding"
    position = {"concat": False, "normalize": False, "learnable_dim": 0, "weight": 1.0}
    config.model.encoder_position = dict(position)
    config.model.decoder_position = dict(position)

    common.train_as_on_clevr(config)

    config.evaluations.default = {"num_slots": 11, "num_iterations": 5}
    config.evaluations.like_training = {"num_slots": 7, "num_iterations": 3}
    return config
