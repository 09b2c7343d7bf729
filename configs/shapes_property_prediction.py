"""Property prediction from ViT features of embedded scenes, up to 3 objects.

    make properties

Trains 4 slots on 48 principal components of the features of 5,000 scenes of 1 to 3
objects; `--config.max_objects=6 --config.evaluation_max_objects=6 --config.num_slots=7`
takes 10,000 of up to 6. MEASURED
"""

import ml_collections

from configs import property_prediction


def get_config() -> ml_collections.ConfigDict:
    config = property_prediction.get_config()
    config.dataset = "scenes"
    config.encoder = "vit_small_patch14_dinov2.lvd142m"
    config.batch_size = 16
    config.max_objects = 6
    config.num_slots = 7
    config.num_train_steps = 13_000
    config.z_range = "correct"
    config.model.feature_dim = 128
    config.model.encoder_position = {"weight": 8.0}

    config.optimizer.learning_rate = 5e-4
    config.optimizer.warmup_steps = 300
    config.optimizer.half_life_steps = 0
    config.optimizer.cosine_steps = 13_000
    config.optimizer.clip_norm = 1.0

    config.evaluation_max_objects = 6
    config.evaluations.default = {"num_slots": 7, "num_iterations": 3}
    config.evaluations.more_slots = {"num_slots": 14, "num_iterations": 3}
    config.evaluate_every_steps = 2_000
    config.checkpoint_every_steps = 1_000
    config.num_figure_examples = 6
    return config
