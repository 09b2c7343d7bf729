"""More slots and objects than in training: the paper's object discovery on CLEVR.

    python -m data.prepare --dataset=clevr_with_masks
    python -m sanorm_jax.study --config=configs/study_clevr.py --submit

Trains with 7 slots on up to 6 objects (CLEVR6) and with 11 slots on up to 10 (CLEVR10),
for 500,000 steps at batch size 64. Evaluates on up to 10 objects. `--submit` writes a
Slurm array with one task per run; without it, the runs train on this machine. Not
reproduced yet.
"""

import ml_collections

from sanorm_jax.configs import common, object_discovery


def get_config() -> ml_collections.ConfigDict:
    config = common.study(
        object_discovery.get_config(),
        "More slots and objects than trained with: CLEVR",
    )
    common.train_on_6_and_10_objects(config, "clevr")

    config.evaluation.num_slots = (4, 5, 6, 7, 9, 11, 13, 15, 17, 20)
    config.evaluation.num_iterations = 5
    config.evaluation.datasets.clevr = {
        "dataset": "clevr_with_masks",
        "split": "test",
        "min_objects": 3,
        "max_objects": (3, 4, 5, 6, 7, 8, 9, 10),
    }
    config.evaluation.sample_slots = (7, 11, 20)
    config.measures = common.measures("fg_ari", "ari")
    config.table_slots = (7, 11, 15, 20)
    config.slurm_options = (
        "--gpus=1",
        "--cpus-per-task=8",
        "--mem=32G",
        "--time=24:00:00",
    )
    return config
