"""Property prediction from a ViT's features of the embedded scenes, on two cores.

make properties
"""

import ml_collections

from configs import property_prediction


def get_config() -> ml_collections.ConfigDict:
    config = property_prediction.get_config()
    config.dataset = "shapes_properties"
    config.encoder = "vit_small_patch14_dinov2.lvd142m"
    config.batch_size = 64
    config.max_objects = 6
    config.num_slots = 7
    config.update_normalization = "weighted_mean"
    config.num_train_steps = 4_000
    config.z_range = "correct"
    config.model.feature_dim = 128

    config.optimizer.name = "adam"
    config.optimizer.learning_rate = 1e-3
    config.optimizer.warmup_steps = 200
    config.optimizer.half_life_steps = 0
    config.optimizer.cosine_steps = 4_000

    config.evaluation_max_objects = 6
    config.evaluation_resolution = 128
    config.evaluations.default = {"num_slots": 7, "num_iterations": 3}
    config.evaluations.more_slots = {"num_slots": 14, "num_iterations": 3}
    config.evaluate_every_steps = 1_000
    config.checkpoint_every_steps = 500
    return config
