"""How many slots? Answers to more slots than objects, compared on scanned objects.

    make slot_count

Trains the paper's four normalizations, adaptive slots, Sinkhorn attention, and learned
and token initial slots, with 7 slots on 3 to 6 objects. Evaluates with 4 to 20 slots on
up to 10 objects, and two normalizations again with merging. Data, model and penalty are
those of `configs/study_tabletop.py`. Each variant uses the better of two learning
rates: that with the lower training loss on the first seed.

Learned initial slots are evaluated with 7 slots only, as they have no others.
"""

import ml_collections

from sanorm_jax.configs import common, study_tabletop


def get_config() -> ml_collections.ConfigDict:
    config = study_tabletop.get_config()
    config.title = "How many slots? Mechanisms compared on scanned objects"
    config.base.num_train_steps = 2_000
    config.base.optimizer.cosine_steps = 2_000
    config.base.slot_share_penalty = ((400, 0.0), (600, 0.01))
    config.base.evaluate_every_steps = 1_000
    config.learning_rates = (1e-3, 2.5e-3)

    config.mechanisms.adaptive = {
        "update_normalization": "weighted_mean",
        "model": {"adaptive": True},
        # Before slots bind to objects, the penalty makes a single slot win.
        "keep_penalty": ((1_000, 0.0), (1_500, 0.01)),
    }
    config.mechanisms.sinkhorn = {
        "update_normalization": "weighted_mean",
        "model": {"attention": "sinkhorn_learned"},
    }
    for slot_init in ("learned", "tokens"):
        for normalization in ("weighted_mean", "batch_norm"):
            config.mechanisms[f"{normalization}_{slot_init}"] = {
                "update_normalization": normalization,
                "model": {"slot_init": slot_init},
            }
    config.variants += tuple(config.mechanisms)
    config.merged.weighted_mean_merged = "weighted_mean"
    config.merged.batch_norm_merged = "batch_norm"

    config.evaluation.num_slots = (4, 5, 7, 9, 11, 15, 20)
    del config.evaluation.datasets["unseen"]
    config.measures = common.measures("fg_ari", "ari", "mbo", suffix="_refined")
    return config
