"""DINOSAUR on Pascal VOC 2012 with DINO ViT-B/16 features: photographs.

    python -m data.prepare --dataset=voc --source=VOCdevkit
    python -m feature_extraction.extract --dataset=voc \
        --encoder=vit_base_patch16_224.dino
    python -m sanorm_jax.main --config=configs/dinosaur_voc.py \
        --config.update_normalization=batch_norm

Trains 6 slots on VOC's 1,464 images and, if SBD lies beside them, its others, 10,582
in all, for 300,000 steps of 64; evaluates on the 1,449 of `val` at 320 pixels. Values:
those of `configs/dinosaur_coco.py` and, for slots and steps, the config
`voc2012_trainaug_feat_rec_dino_base16_auto` of the same authors (1), whose decoder is
an autoregressive transformer: with the MLP decoder of this code no setting for VOC is
published, and that of COCO is taken. Not run to its end: VOC cannot be had on the
machine this was written on; the path is tested on files of its formats.
"""

import ml_collections

from sanorm_jax.configs import dinosaur_coco


def get_config() -> ml_collections.ConfigDict:
    config = dinosaur_coco.get_config()
    config.dataset = "voc"
    config.num_slots = 6  # (1)
    config.num_train_steps = 300_000  # (1)
    config.evaluations.default = {"num_slots": 6, "num_iterations": 3}
    return config
