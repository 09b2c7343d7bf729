"""DINOSAUR on natural images: COCO 2017 with DINO ViT-B/16 features.

    python -m data.prepare --dataset=coco --source=coco
    python -m feature_extraction.extract --dataset=coco \
        --encoder=vit_base_patch16_224.dino
    python -m sanorm_jax.main --config=configs/dinosaur_coco.py \
        --config.update_normalization=batch_norm

Trains 7 slots for 500,000 steps at batch size 64 and evaluates at 320 pixels.
docs/data.md gives the size of the stores. The settings come from two sources:

(1) the configs `coco_feat_rec_dino_base16` and `_base_feature_recon` in the
    object-centric-learning-framework of DINOSAUR's authors (Seitzer et al., ICLR 2023).
    Images are not flipped here, because features are extracted only once.
(2) SPOT (Kakogeorgiou et al., CVPR 2024), which reports mBO at this resolution.

Not reproduced yet. Tests run the whole path on small files in COCO's formats.
"""

import ml_collections

from sanorm_jax.configs import dinosaur


def get_config() -> ml_collections.ConfigDict:
    config = dinosaur.get_config()
    config.dataset = "coco"
    config.encoder = "vit_base_patch16_224.dino"  # (1) 196 tokens of 768
    config.num_slots = config.evaluations.default.num_slots = 7  # (1)

    config.model.slot_dim = 256  # (1) `object_dim`
    config.model.hidden_dim = 1024  # (1) four times the slots' dimension
    config.model.decoder_hidden_dim = 2048  # (1) three layers, as on MOVi-C

    config.optimizer.name = "adam"  # (1) PyTorch's, 4e-4, 10,000 steps of warm-up

    config.evaluation_resolution = 320  # (2)
    return config
