"""Fields that every experiment shares; the experiments set the rest.

Nothing here is a recipe: run `configs/shapes.py`, `configs/dinosaur.py`,
`configs/object_discovery.py` or `configs/property_prediction.py`.
"""

import ml_collections


def get_config() -> ml_collections.ConfigDict:
    config = ml_collections.ConfigDict()
    config.task = "dinosaur"
    config.seed = 0

    # Data: `<data_dir>/<dataset>` and, for DINOSAUR, `<data_dir>/<dataset>-<encoder>`.
    config.data_dir = "datasets"
    config.dataset = "shapes"
    config.encoder = ""
    config.batch_size = 64
    config.min_objects = 0  # 0: no limit, here and below
    config.max_objects = 0
    config.num_train_examples = 0
    config.num_train_sequences = 0
    config.num_validation_examples = 0
    config.num_validation_sequences = 0
    config.data_seed = 0  # which examples a limited number keeps
    config.allow_incomplete = False
    config.stage_dir = ""  # local disk to copy the splits to first, and read there

    # Slot Attention.
    config.num_slots = 7
    config.num_iterations = 3
    config.update_normalization = "weighted_mean"
    config.dtype = "float32"
    # Of float32 products: default, high (both TF32 on GPUs), highest (float32).
    config.matmul_precision = "default"
    config.init_from = ""  # a workdir, or a converted PyTorch checkpoint

    # Optimization.
    config.num_train_steps = 500_000
    config.optimizer = ml_collections.ConfigDict()
    config.optimizer.name = "adam_tf"
    config.optimizer.learning_rate = 4e-4
    config.optimizer.warmup_steps = 10_000
    config.optimizer.warmup_start = 1e-8
    config.optimizer.half_life_steps = 100_000  # 0: no decay
    config.optimizer.cosine_steps = 0  # end of a cosine to a tenth; 0: none
    config.optimizer.epsilon = 1e-8
    config.optimizer.clip_norm = 0.0  # 0: no clipping

    # Evaluation while training, on `evaluation_split` under named settings.
    config.evaluation_split = "validation"
    config.evaluation_min_objects = 0
    config.evaluation_max_objects = 0
    config.evaluation_batch_size = 64
    config.evaluation_seed = 0
    config.evaluations = ml_collections.ConfigDict()
    config.evaluate_every_steps = 10_000
    config.num_figure_examples = 8

    # What a restart may change (sanorm_jax/run/workdir.py): none of it moves a result.
    config.log_every_steps = 100
    config.checkpoint_every_steps = 1_000
    config.num_checkpoints = 3
    config.keep_checkpoint_every_steps = 10_000
    config.time_limit_h = 0.0  # 0: none
    config.parallelism = "auto"
    config.wandb = ""  # project that mirrors scalars and figures; needs `wandb`
    config.compilation_cache = True  # in the workdir's parent, for the next start
    return config
