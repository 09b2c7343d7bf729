"""What more slots do to object discovery from pixels: scenes of tetrominoes.

    make paper

Four normalizations, trained with 4 slots on three tetrominoes, evaluated with 4 to 11
slots on up to 5. Not run to its end: what single runs of batch norm and weighted mean
reached is in `configs/blocks.py`. Expected time: a run takes 26 minutes of one core.
"""

import ml_collections

from sanorm_jax.configs import blocks, study_shapes


def get_config() -> ml_collections.ConfigDict:
    config = study_shapes.about(
        blocks.get_config(),
        "More slots and objects than trained with: tetrominoes",
    )
    config.base.num_train_steps = 30_000
    config.train_settings.objects_3 = {"num_slots": 4, "max_objects": 3}

    config.evaluation.num_slots = (4, 5, 6, 7, 9, 11)
    config.evaluation.datasets.blocks = {
        "dataset": "blocks",
        "split": "validation",
        "min_objects": 3,
        "max_objects": (3, 4, 5),
    }
    config.evaluation.sample_slots = (4, 11)
    config.measures = tuple(
        f"{measure}_{maps}"
        for maps in ("masks", "attention")
        for measure in ("fg_ari", "ari", "mbo")
    )
    config.table_slots = (4, 5, 7, 11)
    return config
