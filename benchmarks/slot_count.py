"""Training step of each variant of `configs/study_slot_count.py`, side by side.

    python -m benchmarks.slot_count

The steps take turns on random features of the study's size, so that the load of the
machine affects all variants alike.
"""

import pathlib
import time

import jax
import numpy as np
from absl import flags

from benchmarks import tables
from sanorm_jax import optimizers, tasks, train_step
from sanorm_jax.configs import study_slot_count
from sanorm_jax.core import commands
from sanorm_jax.metrics import measures
from sanorm_jax.run.distribution.devices import compiler_options
from sanorm_jax.study import jobs
from sanorm_jax.tasks.base import Description

_REPEATS = flags.DEFINE_integer("repeats", 30, "Timed steps per variant.", 1)

_TOKENS, _COMPONENTS = 256, 96


def make_step(config):
    """Return a function that takes one training step and returns its loss."""
    fields = {
        "features": ((_TOKENS, _COMPONENTS), "float32"),
        "segmentation": ((128, 128), "uint8"),
    }
    task = tasks.create(config, Description(fields, {"image_size": 128}))
    tx, schedule = optimizers.create(config.optimizer)
    state = train_step.create_state(task, tx, seed=0)
    shape = (config.batch_size, _TOKENS, _COMPONENTS)
    batch = {
        "features": np.random.default_rng(0).standard_normal(shape, np.float32),
        "position": np.arange(config.batch_size, dtype=np.int32),
    }
    step = jax.jit(
        train_step.make_train_step(task, tx, schedule),
        donate_argnums=0,
        compiler_options=compiler_options(),
    )

    def run() -> float:
        nonlocal state
        state, scalars = step(state, batch)
        return float(scalars["loss"])

    return run


def main():
    """Print the table."""
    study = study_slot_count.get_config()
    first = study.seeds[0], study.learning_rates[0]
    steps = {
        job.variant: make_step(job.config)
        for job in jobs.create(study, pathlib.Path())
        if (job.seed, job.learning_rate) == first
    }
    seconds = {name: [] for name in steps}
    for repeat in range(_REPEATS.value + 1):
        for name, run in steps.items():
            start = time.perf_counter()
            run()
            if repeat:  # the first step compiles
                seconds[name].append(time.perf_counter() - start)
    medians = {name: float(np.median(values)) for name, values in seconds.items()}
    base = medians["weighted_mean"]
    table = tables.make(
        f"Median of {_REPEATS.value} training steps",
        "variant",
        "milliseconds",
        "relative to weighted mean",
    )
    for name, value in medians.items():
        table.add_row(
            measures.variant(name), f"{1e3 * value:.1f}", f"{value / base:.2f}"
        )
    tables.show(table)


if __name__ == "__main__":
    commands.main(main)
