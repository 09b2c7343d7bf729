"""Object discovery on scenes of three tetrominoes: the autoencoder, on two cores.

    make blocks

Trains 4 slots on 60,000 rendered images of 35 x 35 pixels, in many small steps; the
rate falls to a tenth over 30,000 of them. Measured with weighted mean and seed 0 on 147
held-out scenes of three: FG-ARI of the masks 0.950, of the attention 0.952; ARI and mBO
of the masks 0.560, 0.639; with 7 slots FG-ARI 0.830, 0.834. After 30,000 steps 0.937,
0.951, ARI and mBO 0.320, 0.482: the black ground, which costs nothing, comes late to
one slot. The literature reports FG-ARI of 0.95 and more for the published Tetrominoes.

Time: 40 minutes on one core, 25 of them for 30,000 steps.
"""

import ml_collections

from sanorm_jax.configs import common, object_discovery


def get_config() -> ml_collections.ConfigDict:
    config = object_discovery.get_config()
    config.dataset = "blocks"
    config.batch_size = 8
    config.num_slots = 4
    config.max_objects = 3
    config.augmentations = ()
    config.model.feature_dim = 32
    config.model.encoder_kernel_size = 3
    config.model.decoder = "sub_pixel"

    common.train_for_minutes(config, 45_000, learning_rate=5e-4, warmup_steps=500)
    config.optimizer.cosine_steps = 30_000

    config.evaluation_max_objects = 3
    config.evaluation_resolution = 35
    config.evaluations = ml_collections.ConfigDict()
    config.evaluations.default = {"num_slots": 4, "num_iterations": 3}
    config.evaluations.more_slots = {"num_slots": 7, "num_iterations": 3}
    config.evaluate_every_steps = 2_000
    config.checkpoint_every_steps = 1_000
    return config
