"""More slots and objects than in training: the paper's DINOSAUR on MOVi-C and MOVi-D.

    python -m data.prepare --dataset=movi_c
    python -m data.prepare --dataset=movi_d --splits=validation:6000
    python -m feature_extraction.extract --dataset=movi_c \
        --encoder=vit_base_patch8_224.dino
    python -m feature_extraction.extract --dataset=movi_d \
        --encoder=vit_base_patch8_224.dino
    python -m sanorm_jax.study --config=configs/study_movi.py --submit

Trains with 7 slots on up to 6 objects (MOVi-C6) and with 11 slots on up to 10
(MOVi-C10), for 500,000 steps at batch size 64. Evaluates on MOVi-C and, without further
training, on MOVi-D with up to 23 objects. `--submit` writes a Slurm array with one task
per run; without it, the runs train on this machine. Not reproduced yet.
"""

import ml_collections

from sanorm_jax.configs import common, dinosaur


def get_config() -> ml_collections.ConfigDict:
    config = common.study(
        dinosaur.get_config(),
        "More slots and objects than trained with: MOVi-C and MOVi-D",
    )
    common.train_on_6_and_10_objects(config, "movi_c")

    config.evaluation.num_slots = (4, 5, 6, 7, 9, 11, 13, 15, 17, 20, 24)
    config.evaluation.datasets.movi_c = {
        "dataset": "movi_c",
        "split": "validation",
        "min_objects": 3,
        "max_objects": (3, 4, 5, 6, 7, 8, 9, 10),
    }
    config.evaluation.datasets.movi_d = {
        "dataset": "movi_d",
        "split": "validation",
        "min_objects": 0,
        "max_objects": (12, 14, 16, 18, 20, 23),
    }
    config.evaluation.sample_slots = (7, 11, 24)
    config.measures = common.measures("fg_ari", "ari", suffix="_refined")
    config.measures += ("mbo_masks_refined", "mbo_class_masks_refined")
    config.table_slots = (7, 11, 20, 24)
    return config
