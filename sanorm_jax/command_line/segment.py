"""Segment images: `python -m sanorm_jax segment --workdir=RUN --dataset=photos`.

The label map and the overlay of each image go to `RUN/segmentations/`.
"""

from absl import flags, logging

from sanorm_jax.command_line import options, run_flags
from sanorm_jax.core import commands

_RUN = run_flags.RunFlags()
_DATASET = flags.DEFINE_string("dataset", "", "Store of images; the config's if unset.")
_DATA_DIR = commands.define_path(
    "data_dir", None, "Folder of the stores; the config's if unset."
)
_SPLIT = flags.DEFINE_string("split", "", "Split; the config's if unset.")
_NUM_SLOTS = run_flags.define_numbers(
    "num_slots", "Numbers of slots, such as 7,11; as in training if unset."
)
_NUM_ITERATIONS = run_flags.define_numbers(
    "num_iterations", "Numbers of iterations, such as 3,5; as in training if unset."
)
_STEP = flags.DEFINE_integer("step", None, "Checkpoint; the newest if unset.")


def _segment():
    shared = (_DATASET, _SPLIT, _NUM_SLOTS, _NUM_ITERATIONS, _STEP)
    with _RUN.joined(*shared):
        config = _RUN.trained_config()
        from sanorm_jax import segment

        directory = segment.segment(
            config,
            _RUN.workdir,
            dataset=_DATASET.value,
            data_dir=_DATA_DIR.value,
            split=_SPLIT.value,
            num_slots=_NUM_SLOTS.value,
            num_iterations=_NUM_ITERATIONS.value,
            step=_STEP.value,
        )
    logging.info("written: %s", directory)


if __name__ == "__main__":
    options.run(_segment, _RUN.config)
