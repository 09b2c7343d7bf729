"""Evaluate a run: `python -m sanorm_jax evaluate --workdir=RUN --num_slots=7,11`.

The results and figures of each combination of numbers of slots, iterations and objects
go to `RUN/evaluations/`.
"""

from absl import flags, logging

from sanorm_jax.command_line import options, run_flags

_RUN = run_flags.RunFlags()
_SPLIT = flags.DEFINE_string("split", "", "Split; the config's if unset.")
_NUM_SLOTS = run_flags.define_numbers("num_slots", "Numbers of slots, such as 7,11.")
_NUM_ITERATIONS = run_flags.define_numbers(
    "num_iterations", "Numbers of iterations, such as 3,5."
)
_MAX_OBJECTS = run_flags.define_numbers(
    "max_objects",
    "Maximum numbers of objects per image, such as 6,10; no limit if unset.",
)
_MERGE_THRESHOLD = flags.DEFINE_float(
    "merge_threshold",
    None,
    "Cosine distance below which slots are merged; the config's if unset.",
)
_STEP = flags.DEFINE_integer("step", None, "Checkpoint; the newest if unset.")


def _evaluate():
    shared = (
        _SPLIT,
        _NUM_SLOTS,
        _NUM_ITERATIONS,
        _MAX_OBJECTS,
        _MERGE_THRESHOLD,
        _STEP,
    )
    with _RUN.joined(*shared):
        config = _RUN.trained_config()
        from sanorm_jax import evaluate

        directory = evaluate.evaluate(
            config,
            _RUN.workdir,
            split=_SPLIT.value,
            num_slots=_NUM_SLOTS.value,
            num_iterations=_NUM_ITERATIONS.value,
            max_objects=_MAX_OBJECTS.value,
            merge_threshold=_MERGE_THRESHOLD.value,
            step=_STEP.value,
        )
    logging.info("written: %s", directory)


if __name__ == "__main__":
    options.run(_evaluate, _RUN.config)
