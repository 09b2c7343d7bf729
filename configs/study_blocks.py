"""More slots than in training: object discovery on tetrominoes.

    make tetrominoes
    python -m sanorm_jax.study --config=configs/study_blocks.py    # also: make paper

Trains four normalizations with 4 slots on scenes of three tetrominoes for 30,000 steps.
Evaluates with 4 to 11 slots on up to 5 tetrominoes. One seed takes 121 minutes on one
core. docs/results.md has the results.
"""

import ml_collections

from sanorm_jax.configs import blocks, common


def get_config() -> ml_collections.ConfigDict:
    config = common.small_study(
        blocks.get_config(),
        "More slots and objects than trained with: tetrominoes",
    )
    config.base.num_train_steps = 30_000
    config.train_settings.objects_3 = {"num_slots": 4, "max_objects": 3}

    config.evaluation.num_slots = (4, 5, 6, 7, 9, 11)
    config.evaluation.datasets.blocks = {
        "dataset": "blocks",
        "split": "validation",
        "min_objects": 3,
        "max_objects": (3, 4, 5),
    }
    config.evaluation.sample_slots = (4, 11)
    config.measures = common.measures("fg_ari", "ari", "mbo")
    config.table_slots = (4, 5, 7, 11)
    return config
