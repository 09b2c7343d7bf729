"""The paper scaled down: its three tasks with four normalizations each, on one page.

    make paper

Runs `configs/study_shapes.py`, `configs/study_properties.py` and
`configs/study_blocks.py` in turn, each in its own folder. `--config.seeds="(0,)"` and
`--config.data_dir=DIR` apply to all three. docs/results.md has results and times.
"""

import ml_collections
from ml_collections import config_dict

from sanorm_jax.configs import study_blocks, study_properties, study_shapes


def get_config() -> ml_collections.ConfigDict:
    config = ml_collections.ConfigDict()
    config.title = "Attention normalizations and the number of slots, scaled down"
    config.seeds = config_dict.FieldReference((0, 1, 2))
    config.data_dir = config_dict.FieldReference("datasets")
    config.studies = ml_collections.ConfigDict()
    studies = {
        "dinosaur": (
            study_shapes,
            "DINOSAUR on ViT features: trained with 7 slots on 3 to 6 objects, does it "
            "over-segment with more slots?",
        ),
        "property_prediction": (
            study_properties,
            "Property prediction from ViT features: trained with 7 slots on up to 6 "
            "objects, does it predict the same objects with up to 14?",
        ),
        "object_discovery": (
            study_blocks,
            "An autoencoder of images: trained with 4 slots on three tetrominoes, does "
            "it find them, and more of them, with up to 11 slots?",
        ),
    }
    for name, (module, question) in studies.items():
        study = module.get_config()
        study.title = question.partition(":")[0]
        study.question = question
        study.seeds = config.get_ref("seeds")
        study.base.data_dir = config.get_ref("data_dir")
        config.studies[name] = study
    return config
