"""Object discovery on small embedded scenes, on two cores.

python -m data.prepare --dataset=shapes --name=shapes_32 --image_size=32
python -m sanorm_jax.main --config=configs/shapes_object_discovery.py
"""

import ml_collections

from configs import object_discovery


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
