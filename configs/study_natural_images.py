"""More slots than in training: DINOSAUR on natural images (COCO and VOC).

    python -m data.prepare --dataset=coco --source=coco
    python -m data.prepare --dataset=voc --source=VOCdevkit
    python -m feature_extraction.extract --dataset=coco \
        --encoder=vit_base_patch16_224.dino
    python -m feature_extraction.extract --dataset=voc \
        --encoder=vit_base_patch16_224.dino
    python -m sanorm_jax.study --config=configs/study_natural_images.py --submit

Trains the model of `configs/dinosaur_coco.py` on COCO with 7 slots and four
normalizations. Evaluates on COCO and VOC with 4 to 20 slots and reports scores by the
number of objects in the image. `--submit` writes a Slurm array with one task per run.
Not reproduced yet.
"""

import ml_collections

from sanorm_jax.configs import common, dinosaur_coco


def get_config() -> ml_collections.ConfigDict:
    config = common.study(
        dinosaur_coco.get_config(), "More slots than trained with: natural images"
    )
    config.train_settings.coco = {"num_slots": 7}

    config.evaluation.num_slots = (4, 5, 6, 7, 9, 11, 15, 20)
    for dataset in ("coco", "voc"):
        config.evaluation.datasets[dataset] = {
            "dataset": dataset,
            "split": "validation",
            "min_objects": 1,
            "max_objects": (1, 2, 3, 4, 6, 8, 10, 15, 20),
        }
    config.evaluation.sample_slots = (7, 11, 20)
    kinds = ("mbo", "mbo_class", "fg_ari", "ari", "miou")
    config.measures = common.measures(*kinds, suffix="_refined")
    config.table_slots = (6, 7, 11, 20)
    return config
