"""More slots, more objects and unseen objects: DINOSAUR on scanned objects.

    make study_tabletop

Trains DINOSAUR with four normalizations and three seeds, with 7 slots on 3 to 6 scanned
objects. Evaluates with 4 to 20 slots on up to 10 objects, and on objects and floors
that are not in the training data. All runs have the same settings, which were fixed
before the comparison: the gradient through all iterations, one learning rate, and the
demo's penalty on a shared background.
"""

import ml_collections

from sanorm_jax.configs import common, tabletop


def get_config() -> ml_collections.ConfigDict:
    config = common.small_study(
        tabletop.get_config(),
        "More slots, more objects and unseen objects: scanned objects",
    )
    config.base.model.implicit = False
    config.base.num_train_steps = 3_000
    config.base.optimizer.cosine_steps = 3_000
    config.base.optimizer.learning_rate = 2.5e-3
    config.base.slot_share_penalty = ((600, 0.0), (900, 0.01))
    config.base.evaluate_every_steps = 1_500
    # The study compares the normalizations themselves.
    config.base.evaluations.default.num_iterations = 3
    config.base.merge_threshold = 0.0
    config.train_settings.objects_3_6 = {
        "num_slots": 7,
        "min_objects": 3,
        "max_objects": 6,
    }

    config.evaluation.num_slots = (4, 5, 6, 7, 9, 11, 15, 20)
    config.evaluation.datasets.tabletop = {
        "dataset": "tabletop",
        "split": "validation",
        "min_objects": 3,
        "max_objects": (3, 4, 5, 6, 7, 8, 9, 10),
    }
    config.evaluation.datasets.unseen = {
        "dataset": "tabletop",
        "split": "validation_unseen",
        "min_objects": 3,
        "max_objects": (3, 4, 5, 6),
    }
    config.evaluation.sample_slots = (7, 15)
    config.measures = common.measures("fg_ari", "ari", "mbo", suffix="_refined")
    config.table_slots = (7, 11, 15, 20)
    return config
