"""DINOSAUR on MOVi-C with DINO ViT-B/8 features and the paper's settings.

    python -m data.prepare --dataset=movi_c
    python -m feature_extraction.extract --dataset=movi_c \
        --encoder=vit_base_patch8_224.dino
    python -m sanorm_jax.main --config=configs/dinosaur.py \
        --config.update_normalization=weighted_sum

Trains 11 slots with 3 iterations for 500,000 steps at batch size 64. The feature store
takes 289 GB (240,000 frames in float16, see docs/feature_store.md).

Expected result: as in the paper's table for MOVi-C. Not reproduced yet.
"""

import ml_collections

from sanorm_jax.configs import common


def get_config() -> ml_collections.ConfigDict:
    config = common.get_config()
    config.task = "dinosaur"
    config.dataset = "movi_c"
    config.encoder = "vit_base_patch8_224.dino"
    config.num_slots = 11
    config.remat = True

    config.model.slot_dim = 128
    config.model.hidden_dim = 512
    config.model.decoder_hidden_dim = 1024
    config.model.decoder_num_hidden_layers = 3

    config.optimizer.learning_rate = 4e-4
    config.optimizer.clip_norm = 1.0

    config.evaluation_resolution = 224
    config.evaluations.default = {"num_slots": 11, "num_iterations": 3}
    return config
