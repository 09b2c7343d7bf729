"""Object discovery on embedded scenes of CLEVR's kind: the autoencoder, on two cores.

    make discovery

Trains 7 slots on 20,000 scenes of 3 to 6 objects, 32 x 32 pixels, in many small steps,
with the gradient through the last iteration. Measured with weighted mean and seed 0 on
480 held-out scenes, masks: FG-ARI 0.823, ARI 0.805, mBO 0.648; of the attention 0.744,
0.761, 0.564; with 11 slots 0.803, 0.828, 0.684 of the masks. With the gradient through
all iterations and half the rate it was 0.724, 0.797, 0.587; with 11 slots FG-ARI 0.642.

Time: scenes 80 seconds, training with its evaluations 39 minutes on one core beside
other work.
"""

import ml_collections

from sanorm_jax.configs import common, object_discovery


def get_config() -> ml_collections.ConfigDict:
    config = object_discovery.get_config()
    config.update({"dataset": "shapes_32", "batch_size": 8, "min_objects": 3})
    config.model.update({"feature_dim": 32, "encoder_kernel_size": 3})
    config.model.decoder = "sub_pixel"
    config.model.implicit = True
    common.train_for_minutes(config, 30_000, learning_rate=1e-3, warmup_steps=500)

    config.evaluation_min_objects = 3
    config.evaluation_max_objects = 6
    config.evaluation_resolution = 32
    config.evaluate_every_steps = 3_000
    config.checkpoint_every_steps = 1_000
    return config
