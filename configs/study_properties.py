"""What more slots do to property prediction: embedded scenes, ViT features.

    make paper

Four normalizations, trained with 7 slots on scenes of up to 6 objects, evaluated with 6
to 14 slots. Measured with seed 0, average precision without distance limit at 7 and 14
slots: 0.542, 0.573 (weighted mean), 0.547, 0.593 (layer norm), 0.539, 0.575 (batch
norm), 0.355, 0.392 (weighted sum, whose updates are the smallest: it is late); within
one unit 0.252, 0.282; 0.267, 0.316; 0.237, 0.261; 0.057, 0.063.

Time: 97 minutes of one core beside other work; a run that has it to itself takes 20.
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
