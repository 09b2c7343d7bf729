"""DINOSAUR on scenes of scanned objects, on a CPU.

    make tabletop

Trains 7 slots on ViT-S/14 features (48 principal components) of 2,000 scenes of 3 to 6
scanned objects. Evaluates on held-out scenes of the same objects. The split
`validation_unseen` has objects and floors that are not in the training data. The
settings are those of `configs/shapes.py`, without tuning. Not reproduced yet.
"""

import ml_collections

from sanorm_jax.configs import shapes


def get_config() -> ml_collections.ConfigDict:
    config = shapes.get_config()
    config.dataset = "tabletop"
    return config
