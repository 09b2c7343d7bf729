"""Object discovery on synthetic scenes of three tetrominoes, on a CPU.

    make blocks

Trains 4 slots on 60,000 scenes of 35 x 35 pixels for 45,000 steps at batch size 8. The
learning rate decays to a tenth over the first 30,000 steps. Takes 40 minutes on one
core.

Expected result with weighted mean: FG-ARI 0.95 on scenes of three tetrominoes; see
docs/results.md.
"""

import ml_collections

from sanorm_jax.configs import common, object_discovery


def get_config() -> ml_collections.ConfigDict:
    config = object_discovery.get_config()
    config.dataset = "blocks"
    config.batch_size = 8
    config.num_slots = 4
    config.max_objects = config.evaluation_max_objects = 3
    config.augmentations = ()
    config.model.feature_dim = 32
    config.model.encoder_kernel_size = 3
    config.model.decoder = "sub_pixel"

    common.train_for_minutes(config, 45_000, learning_rate=5e-4, warmup_steps=500)
    config.optimizer.cosine_steps = 30_000

    config.evaluation_resolution = 35
    config.evaluations = ml_collections.ConfigDict()
    config.evaluations.default = {"num_slots": 4, "num_iterations": 3}
    config.evaluations.more_slots = {"num_slots": 7, "num_iterations": 3}
    config.evaluate_every_steps = 2_000
    config.checkpoint_every_steps = 1_000
    return config
