"""More slots than in training: property prediction on synthetic scenes.

    make scenes
    python -m sanorm_jax.study --config=configs/study_properties.py  # also: make paper

Trains four normalizations on ViT features with 7 slots on up to 6 objects. Evaluates
with 6 to 14 slots. One seed takes 41 minutes on one core.

Weighted sum does not learn in this study, because it needs the gradient through all
iterations. docs/results.md has the results.
"""

import ml_collections

from sanorm_jax.configs import common, shapes_property_prediction


def get_config() -> ml_collections.ConfigDict:
    config = common.small_study(
        shapes_property_prediction.get_config(),
        "More slots than trained with: properties of objects",
    )
    config.train_settings.objects_1_6 = {"num_slots": 7, "max_objects": 6}

    config.evaluation.num_slots = (6, 7, 9, 11, 14)
    config.evaluation.datasets.scenes = {
        "dataset": "scenes",
        "split": "validation",
        "min_objects": 1,
        "max_objects": (1, 2, 3, 4, 5, 6),
    }
    config.evaluation.sample_slots = (7, 14)
    config.measures = ("ap_inf", "ap_1", "ap_0.5", "ap_0.25")
    config.table_slots = (6, 7, 11, 14)
    return config
