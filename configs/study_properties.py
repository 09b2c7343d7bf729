"""What more slots do to property prediction: embedded scenes, ViT features.

    make paper

Four normalizations, trained with 7 slots on scenes of up to 6 objects, evaluated with 6
to 14 slots. Measured with seed 0, average precision without distance limit at 7 and 14
slots: 0.314, 0.313 (weighted mean), 0.302, 0.334 (layer norm), 0.282, 0.311 (batch
norm), 0.048, 0.058 (weighted sum, whose updates are the smallest: it is late). None has
learned to its end, so this does not decide between them.

Time: 54.5 minutes on one core beside other work.
"""

import ml_collections

from sanorm_jax.configs import shapes_property_prediction, study_shapes


def get_config() -> ml_collections.ConfigDict:
    config = study_shapes.about(
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
