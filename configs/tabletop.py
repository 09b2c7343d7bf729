"""DINOSAUR on scanned objects: `tabletop`, minutes on two cores.

    make tabletop

Trains 7 slots on the ViT features (48 principal components) of 2,000 scenes of 3 to 6
scanned objects, and evaluates on held-out scenes of the same objects and, as split
`validation_unseen`, of objects and floors that training never shows. The settings are
those of `configs/shapes.py`.
"""

import ml_collections

from sanorm_jax.configs import shapes


def get_config() -> ml_collections.ConfigDict:
    config = shapes.get_config()
    config.dataset = "tabletop"
    return config
