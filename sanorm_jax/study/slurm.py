"""Slurm array of a study, with one task per job."""

import pathlib
import shlex
import sys

import ml_collections

from sanorm_jax import run
from sanorm_jax.core import files
from sanorm_jax.run.distribution import preemption

FILE = "study.sbatch"
REQUEUE = pathlib.Path(run.__file__).with_name("requeue.sh")

_SCRIPT = """#!/bin/bash
#SBATCH --job-name={name}
#SBATCH --array=0-{last}
#SBATCH --output={log}
#SBATCH --open-mode=append
#SBATCH --requeue
#SBATCH --signal=USR1@300
{options}
# Each task is one job of the study; a task that ends with {code} is requeued.
cd {folder} || exit 1
exec bash {requeue} srun {python} -m sanorm_jax.study --workdir={workdir} \\
    --job="$SLURM_ARRAY_TASK_ID"
"""


def write(
    study: ml_collections.ConfigDict, workdir: pathlib.Path, num_jobs: int
) -> pathlib.Path:
    """Write `<workdir>/study.sbatch` for all jobs of a study, and return its path.

    `study.slurm_options` are options of sbatch, such as `--time=24:00:00`. Tasks of
    finished jobs exit immediately.
    """
    workdir = workdir.absolute()
    text = _SCRIPT.format(
        name=workdir.name,
        last=num_jobs - 1,
        log=shlex.quote(str(workdir / "slurm-%a.txt")),
        options="".join(f"#SBATCH {option}\n" for option in study.slurm_options),
        folder=shlex.quote(str(pathlib.Path.cwd())),
        python=shlex.quote(sys.executable),
        workdir=shlex.quote(str(workdir)),
        code=preemption.EXIT_CODE,
        requeue=shlex.quote(str(REQUEUE)),
    )
    path = workdir / FILE
    files.write(path, text)
    return path
