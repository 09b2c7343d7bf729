"""Object discovery on small embedded scenes, on two cores.

    python -m data.prepare --dataset=shapes --name=shapes_32 --image_size=32 \
        --splits=train:5000,validation:320
    python -m sanorm_jax.main --config=configs/shapes_object_discovery.py

Measured with seed 0, 7 slots and 3 iterations: mean squared error 0.021, FG-ARI of the
attention 0.56, of the masks 0.50; with 11 slots and 5 iterations 0.54 and 0.45. ARI is
0.04: so early, slots still share the background. Time: 18 minutes on one busy core.
"""

import ml_collections

from sanorm_jax.configs import object_discovery


def get_config() -> ml_collections.ConfigDict:
    config = object_discovery.get_config()
    config.dataset = "shapes_32"
    config.batch_size = 16
    config.min_objects = 3
    config.max_objects = 6
    config.num_train_steps = 2_000
    config.model.feature_dim = 32
    config.model.encoder_kernel_size = 3

    config.optimizer.learning_rate = 1e-3
    config.optimizer.warmup_steps = 200
    config.optimizer.half_life_steps = 0

    config.evaluation_min_objects = 3
    config.evaluation_max_objects = 6
    config.evaluation_resolution = 32
    config.evaluate_every_steps = 1_000
    config.checkpoint_every_steps = 500
    return config
