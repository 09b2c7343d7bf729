"""Time the start of training, and the fraction of time that steps wait for data.

    python -m benchmarks.startup [--tasks=dinosaur] [--steps=20]

Each task is trained on random examples at the sizes of `benchmarks.train_step`, in
three processes: without the compilation cache, filling it, and reading it. The last
process also measures the time waiting for data, after its first step.
"""

import os
import pathlib
import subprocess
import sys
import tempfile

from absl import flags

from benchmarks import tables
from benchmarks.train_step_cases import PAPER, Case
from sanorm_jax.core import commands
from sanorm_jax.run.folder import workdir as workdir_lib
from sanorm_jax.run.folder import writers
from tests import stores

CASES = dict(
    zip(("object_discovery", "property_prediction", "dinosaur"), PAPER, strict=True)
)
SPLITS = {"train": 64, "validation": 2}
STARTS = (("without", False), ("filling", True), ("from", True))

_TASKS = flags.DEFINE_list("tasks", list(CASES), "Tasks to time.")
_STEPS = flags.DEFINE_integer("steps", 20, "Steps per run.", 2)


def train(
    task: str, case: Case, data_dir: pathlib.Path, workdir: pathlib.Path, cache: bool
) -> dict[str, float]:
    """Train one run and return its metrics of the last step.

    Raises:
      CalledProcessError: The run failed.
    """
    command = [
        sys.executable,
        "-m",
        "sanorm_jax.main",
        f"--config=configs/{task}.py",
        f"--workdir={workdir}",
        f"--config.data_dir={data_dir}",
        "--config.dataset=random",
        f"--config.encoder={'random' if task == 'dinosaur' else ''}",
        f"--config.batch_size={case.batch_size}",
        f"--config.num_slots={case.num_slots}",
        f"--config.num_train_steps={_STEPS.value}",
        f"--config.log_every_steps={_STEPS.value}",
        "--config.evaluation_batch_size=2",
        "--config.num_figure_examples=0",
        f"--config.compilation_cache={cache}",
    ]
    environment = os.environ.copy()
    # With this variable, all three processes would share one cache.
    environment.pop("JAX_COMPILATION_CACHE_DIR", None)
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env=environment)
    lines = workdir_lib.read_lines(workdir / writers.METRICS_FILE)
    return next(line for line in lines if "time/to_first_step_s" in line)


def main():
    """Print the table."""
    columns = (*(f"{name} cache" for name, _ in STARTS), "waited for data")
    table = tables.make(None, "first step after, s", *columns)
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        source = stores.write_source(folder / "random", SPLITS, size=128)
        shape = (CASES["dinosaur"].tokens, CASES["dinosaur"].feature_dim)
        stores.write_features(folder / "random-random", source, shape)
        for task in _TASKS.value:
            case = CASES[task]
            runs = [
                train(task, case, folder, folder / task / name, cache)
                for name, cache in STARTS
            ]
            table.add_row(
                str(case),
                *(f"{run['time/to_first_step_s']:.1f}" for run in runs),
                f"{runs[-1]['time/data_wait_share']:.1%}",
            )
    tables.show(table)


if __name__ == "__main__":
    commands.main(main)
