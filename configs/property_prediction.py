"""Property prediction on CLEVR with the paper's settings.

    python -m data.prepare --dataset=clevr --source=CLEVR_v1.0.zip
    python -m sanorm_jax.main --config=configs/property_prediction.py \
        --config.update_normalization=batch_norm

Trains 10 slots with 3 iterations on images of 128 x 128 pixels for 500,000 steps at
batch size 512. Evaluates average precision with 10 and 21 slots, and with
`--config.dataset=clevr_with_masks` also the ARI of the attention maps.

Expected result: as in the paper's table for CLEVR. Not reproduced yet.
"""

import ml_collections

from sanorm_jax.configs import common


def get_config() -> ml_collections.ConfigDict:
    config = common.get_config()
    config.task = "property_prediction"
    config.dataset = "clevr"
    config.batch_size = 512
    config.num_slots = 10
    config.z_range = "reference"  # or "correct": see metrics/average_precision.py

    config.model.feature_dim = 64
    config.model.property_hidden_dim = 64

    config.optimizer.name = "adam"
    common.train_as_on_clevr(config)

    config.evaluations.default = {"num_slots": 10, "num_iterations": 3}
    config.evaluations.more_slots = {"num_slots": 21, "num_iterations": 3}
    return config
