"""DINOSAUR on natural images: Pascal VOC 2012 with DINO ViT-B/16 features.

    python -m data.prepare --dataset=voc --source=VOCdevkit
    python -m feature_extraction.extract --dataset=voc \
        --encoder=vit_base_patch16_224.dino
    python -m sanorm_jax.main --config=configs/dinosaur_voc.py \
        --config.update_normalization=batch_norm

Trains 6 slots for 300,000 steps at batch size 64 on VOC's 1,464 training images, or on
10,582 images if SBD is next to VOC. Evaluates on the 1,449 images of `val` at 320
pixels.

The numbers of slots and steps come from (1) the config
`voc2012_trainaug_feat_rec_dino_base16_auto` by the authors of DINOSAUR, which has an
autoregressive transformer decoder. They published no settings for VOC with the MLP
decoder that is used here. All other values are those of `configs/dinosaur_coco.py`.

Not reproduced yet. Tests run the whole path on small files in VOC's formats.
"""

import ml_collections

from sanorm_jax.configs import dinosaur_coco


def get_config() -> ml_collections.ConfigDict:
    config = dinosaur_coco.get_config()
    config.dataset = "voc"
    config.num_slots = config.evaluations.default.num_slots = 6  # (1)
    config.num_train_steps = 300_000  # (1)
    return config
