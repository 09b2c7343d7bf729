"""Object discovery on scenes of three tetrominoes: the autoencoder, on two cores.

    make blocks

Trains 4 slots on 60,000 rendered images of 35 x 35 pixels, as many as the objects and
the ground. MEASURED
"""

import ml_collections

from configs import object_discovery


def get_config() -> ml_collections.ConfigDict:
    config = object_discovery.get_config()
    config.dataset = "blocks"
    config.batch_size = 8
    config.num_slots = 4
    config.max_objects = 3
    # Weighted mean gives the slot left over, on empty ground, a part of an object.
    config.update_normalization = "batch_norm"
    config.num_train_steps = 14_000
    config.augmentations = ()
    config.model.feature_dim = 32
    config.model.encoder_kernel_size = 3
    config.model.decoder = "sub_pixel"

    config.optimizer.name = "adam"
    config.optimizer.learning_rate = 5e-4
    config.optimizer.warmup_steps = 500
    config.optimizer.half_life_steps = 0
    config.optimizer.cosine_steps = 14_000
    config.optimizer.clip_norm = 1.0

    config.evaluation_max_objects = 3
    config.evaluation_resolution = 35
    config.evaluations = ml_collections.ConfigDict()
    config.evaluations.default = {"num_slots": 4, "num_iterations": 3}
    config.evaluations.more_slots = {"num_slots": 7, "num_iterations": 3}
    config.evaluate_every_steps = 2_000
    config.checkpoint_every_steps = 1_000
    return config
