"""Execution of all unfinished jobs of a study."""

import pathlib
import sys
from collections.abc import Sequence

import jax
import ml_collections
from absl import logging

from sanorm_jax import tasks
from sanorm_jax.core import files
from sanorm_jax.run.distribution import preemption
from sanorm_jax.run.folder import workdir as workdir_lib
from sanorm_jax.study import jobs as jobs_lib
from sanorm_jax.study import learning_rates, runner
from sanorm_jax.study.jobs import Job

CONFIG_FILE = "study.json"


def record(study: ml_collections.ConfigDict, workdir: pathlib.Path):
    """Write the config of a study to its folder, for its jobs."""
    workdir_lib.check_writable(workdir)
    workdir.mkdir(parents=True, exist_ok=True)
    text = files.to_json(workdir_lib.config_to_dict(study))
    files.write(workdir / CONFIG_FILE, text)


def check_data(study: ml_collections.ConfigDict, jobs: Sequence[Job]):
    """Raise `UserError` if the data of unfinished jobs are missing."""
    ruled_out = learning_rates.ruled_out(jobs)
    unfinished = [
        job
        for job in jobs
        if job.name not in ruled_out and not jobs_lib.is_finished(job, study)
    ]
    if not unfinished:
        return
    configs = {job.config.dataset: job.config for job in unfinished}
    for name in study.evaluation.datasets:
        config = jobs_lib.evaluation_config(study.base, name, study)
        configs.setdefault(config.dataset, config)
    for config in configs.values():
        tasks.open_dataset(config)


def run(
    study: ml_collections.ConfigDict, jobs: Sequence[Job], workdir: pathlib.Path
) -> int:
    """Run the trials of learning rates, then all unfinished jobs.

    Returns:
      The exit code: 0; 1 if a job failed (its error is on standard error); 124 if
      stopped before the end.
    """
    with preemption.Preemption(0) as stop:
        processes = runner.num_processes(study.num_processes)
        # Leave the accelerator to the jobs.
        jax.config.update("jax_platforms", "cpu")
        codes = {}
        if study.learning_rates:
            trials = [
                job
                for job in learning_rates.trial_jobs(jobs)
                if not jobs_lib.is_trained(job)
            ]
            logging.info(
                "%d trials of learning rates, %d at once", len(trials), processes
            )
            codes |= runner.run(trials, workdir, processes, stop, trials=True)
        compared = learning_rates.chosen(jobs)
        left = [job for job in compared if not jobs_lib.is_finished(job, study)]
        logging.info("%d of %d jobs to do", len(left), len(compared))
        codes |= runner.run(left, workdir, processes, stop)
        stopped = stop.requested() is not None
    failed = [
        job for job in jobs if codes.get(job.name, 0) not in (0, preemption.EXIT_CODE)
    ]
    for job in failed if not stopped else ():
        sys.stderr.write(f"error: {job.name}: {runner.last_words(job)}\n")
    if stopped or preemption.EXIT_CODE in codes.values():
        return preemption.EXIT_CODE
    return 1 if failed else 0
