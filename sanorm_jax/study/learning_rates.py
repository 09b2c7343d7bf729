"""Selection of a learning rate from the study's grid, for each variant.

Each variant is trained at every rate with the first seed. All seeds then use the
rate with the lowest final training loss. The measures in the report, on held-out images
and with other numbers of slots, do not affect the selection.
"""

from collections.abc import Sequence

import numpy as np

from sanorm_jax.run.folder import workdir as workdir_lib
from sanorm_jax.run.folder import writers
from sanorm_jax.study import jobs as jobs_lib
from sanorm_jax.study.jobs import Job

# Fraction of the steps, at the end, over which the logged loss is averaged. The loss of
# single batches varies by more than the difference between the rates.
LAST_PART = 0.25


def trial_jobs(jobs: Sequence[Job]) -> list[Job]:
    """Return the jobs of the first seed, which determine the learning rates."""
    return [job for job in jobs if job.seed == jobs[0].seed]


def training_loss(job: Job) -> float:
    """Return the mean training loss over the last quarter of a job's steps."""
    steps = job.config.num_train_steps
    losses = [
        line["loss"]
        for line in workdir_lib.read_lines(job.workdir / writers.METRICS_FILE)
        if line.get("loss") is not None
        and steps * (1 - LAST_PART) < line["step"] <= steps
    ]
    return float(np.mean(losses)) if losses else float("nan")


def chosen(jobs: Sequence[Job]) -> list[Job]:
    """Return the jobs with the chosen learning rates.

    Without a grid, these are all jobs. A variant without complete trials has no chosen
    jobs yet.
    """
    best = {}
    for key in dict.fromkeys(_variant(job) for job in jobs):
        trials = [job for job in trial_jobs(jobs) if _variant(job) == key]
        if len(trials) == 1:
            best[key] = trials[0].learning_rate
        elif all(map(jobs_lib.is_trained, trials)):
            best[key] = min(trials, key=training_loss).learning_rate
    return [
        job
        for job in jobs
        if _variant(job) in best and best[_variant(job)] == job.learning_rate
    ]


def ruled_out(jobs: Sequence[Job]) -> set[str]:
    """Return the names of the jobs whose variant uses another learning rate."""
    compared = chosen(jobs)
    decided = {_variant(job) for job in compared}
    names = {job.name for job in compared}
    return {j.name for j in jobs if _variant(j) in decided and j.name not in names}


def _variant(job: Job) -> tuple[str, str]:
    return job.train_setting, job.variant
