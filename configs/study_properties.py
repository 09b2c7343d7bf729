"""What more slots do to property prediction: embedded scenes, ViT features.

    make paper

Four normalizations, trained with 7 slots on scenes of up to 6 objects, evaluated with 6
to 14 slots. Measured, mean of seeds 0, 1 and 2, average precision without distance
limit at 7 and 14 slots: 0.750, 0.795 (weighted mean), 0.768, 0.805 (layer norm), 0.735,
0.796 (batch norm); within one unit 0.600, 0.680; 0.632, 0.705; 0.554, 0.638; standard
deviations of 0.001 to 0.023. Weighted sum does not learn with the gradient through the
last iteration (seed 0: 0.042, 0.049).

Time: 41 minutes of one core for one seed, beside other work.
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
