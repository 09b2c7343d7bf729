"""Fields shared by all experiments, with their defaults.

This config is not an experiment. Run `configs/shapes.py`, `configs/dinosaur.py`,
`configs/object_discovery.py` or `configs/property_prediction.py` instead.
"""

import ml_collections


def get_config() -> ml_collections.ConfigDict:
    config = ml_collections.ConfigDict()
    config.task = "dinosaur"
    config.seed = 0

    # Images: `<data_dir>/<dataset>`. Features: `<data_dir>/<dataset>-<encoder>`.
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
    config.data_seed = 0  # seed of the subset that these limits select

    # Slot Attention.
    config.num_slots = 7
    config.num_iterations = 3
    config.update_normalization = "weighted_mean"
    config.dtype = "float32"
    # Precision of float32 matrix products: default, high (TF32 on GPUs) or highest.
    config.matmul_precision = "default"
    config.init_from = ""  # workdir or converted PyTorch checkpoint
    config.model = ml_collections.ConfigDict()  # options of the task's model
    config.model.slot_dim = 64
    config.model.hidden_dim = 128
    config.model.common_dim = ml_collections.config_dict.placeholder(int)
    config.model.gru = "tf"
    config.model.implicit = False  # implicit differentiation, first-order approximation
    config.model.attention = "softmax"  # sinkhorn, sinkhorn_learned
    config.model.num_heads = 1
    config.model.slot_init = "gaussian"  # learned, tokens, bo_qsa
    config.model.adaptive = False  # True: a head decides which slots are kept
    # Weight of a penalty on the expected number of kept slots: knots (step, weight).
    config.keep_penalty = ((0, 0.0),)
    # Slots closer than this cosine distance are merged in evaluation; 0: no merging.
    config.merge_threshold = 0.0
    # DINOSAUR: weight of the slots' Gini-Simpson index in the loss, likewise in knots.
    # It penalizes a background that several slots share.
    config.slot_share_penalty = ((0, 0.0),)

    # Optimization.
    config.num_train_steps = 500_000
    config.optimizer = ml_collections.ConfigDict()
    config.optimizer.name = "adam_tf"
    config.optimizer.learning_rate = 4e-4
    config.optimizer.warmup_steps = 10_000
    config.optimizer.warmup_start = 1e-8
    config.optimizer.half_life_steps = 100_000  # 0: no decay
    config.optimizer.cosine_steps = 0  # end of cosine decay to a tenth; 0: none
    config.optimizer.epsilon = 1e-8
    config.optimizer.clip_norm = 0.0  # 0: no clipping

    # Evaluation during training on `evaluation_split`, once per named setting.
    config.evaluation_split = "validation"
    config.evaluation_min_objects = 0
    config.evaluation_max_objects = 0
    config.evaluation_batch_size = 64
    config.evaluation_seed = 0
    config.evaluations = ml_collections.ConfigDict()
    config.evaluate_every_steps = 10_000
    config.num_figure_examples = 8

    # Fields that a restart may change, see `FREE_FIELDS` in run/folder/workdir.py.
    config.log_every_steps = 100
    config.checkpoint_every_steps = 1_000
    config.num_checkpoints = 3
    config.time_limit_h = 0.0  # 0: no limit
    config.parallelism = "auto"
    config.wandb = ""  # project on Weights & Biases; needs `wandb`
    config.compilation_cache = True  # in `.jax_cache`, next to the workdir
    return config


def train_as_on_clevr(config: ml_collections.ConfigDict):
    """Set fields shared by experiments on CLEVR (Locatello et al., NeurIPS 2020)."""
    config.optimizer.learning_rate = 3.73213196614723e-4
    config.optimizer.warmup_start = 1e-3
    config.evaluation_resolution = 128


def train_for_minutes(
    config: ml_collections.ConfigDict,
    num_train_steps: int,
    learning_rate: float,
    warmup_steps: int,
):
    """Set Adam, cosine decay and clipping for experiments on synthetic scenes."""
    config.num_train_steps = num_train_steps
    config.optimizer.name = "adam"
    config.optimizer.learning_rate = learning_rate
    config.optimizer.warmup_steps = warmup_steps
    config.optimizer.half_life_steps = 0
    config.optimizer.cosine_steps = num_train_steps
    config.optimizer.clip_norm = 1.0


def study(base: ml_collections.ConfigDict, title: str) -> ml_collections.ConfigDict:
    """Return a study of the paper's four normalizations with three seeds.

    The caller fills in `train_settings` and `evaluation`.
    """
    config = ml_collections.ConfigDict()
    config.title = title
    config.base = base
    config.variants = (  # normalizations or names in `mechanisms`
        "weighted_mean",
        "layer_norm",
        "batch_norm",
        "weighted_sum",
    )
    config.mechanisms = ml_collections.ConfigDict()  # changes to `base` by name
    # Variants whose runs are evaluated again with merging, by the name of the result.
    config.merged = ml_collections.ConfigDict()
    config.merge_thresholds = (0.01, 0.02, 0.05, 0.1, 0.2, 0.4)  # grid to choose from
    config.seeds = (0, 1, 2)
    config.learning_rates = ()  # grid to choose from; empty: the rate of `base`
    config.train_settings = ml_collections.ConfigDict()
    config.evaluation = ml_collections.ConfigDict()
    config.evaluation.num_iterations = 3
    config.evaluation.num_samples = 6
    config.evaluation.datasets = ml_collections.ConfigDict()
    config.num_processes = 0  # parallel jobs; 0: one for each CPU core, or 1 on a GPU
    config.slurm_options = (
        "--gpus=1",
        "--cpus-per-task=16",
        "--mem=64G",
        "--time=24:00:00",
    )
    return config


def train_on_6_and_10_objects(study: ml_collections.ConfigDict, dataset: str):
    """Set the paper's training settings: 7 slots up to 6 objects, 11 slots up to 10."""
    study.train_settings[f"{dataset}6"] = {"num_slots": 7, "max_objects": 6}
    study.train_settings[f"{dataset}10"] = {"num_slots": 11, "max_objects": 10}


def measures(*kinds: str, suffix: str = "") -> tuple[str, ...]:
    """Return metric names such as `fg_ari_masks`: all masks, then all attention maps.

    Heat maps and the table of gains show the first one.
    """
    return tuple(
        f"{kind}_{maps}{suffix}" for maps in ("masks", "attention") for kind in kinds
    )


def small_study(
    base: ml_collections.ConfigDict, title: str
) -> ml_collections.ConfigDict:
    """Return a study on synthetic scenes that two cores can run."""
    config = study(base, title)
    config.base.num_figure_examples = 0
    config.base.log_every_steps = 50
    config.base.evaluate_every_steps = 2_000
    config.slurm_options = ("--cpus-per-task=2", "--mem=4G", "--time=02:00:00")
    return config
