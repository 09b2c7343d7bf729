"""Run a study: `python -m sanorm_jax.study --config=configs/study_shapes.py`.

Trains and evaluates every job that is not finished, then writes `report.html`, figures,
CSV and JSON into `<workdir>/report`. The same command resumes.
"""

import json
import pathlib
import sys

import jax
import ml_collections
from absl import flags, logging

from sanorm_jax.command_line import options
from sanorm_jax.core import commands
from sanorm_jax.core.errors import UserError
from sanorm_jax.run.distribution import preemption
from sanorm_jax.study import jobs as jobs_lib
from sanorm_jax.study import learning_rates, page, runner, session, slurm

_CONFIG = options.define_config("File of the study, configs/study_*.py.")
_WORKDIR = commands.define_path(
    "workdir", None, "Folder of the study; default experiments/<name of the config>."
)
_SUBMIT = flags.DEFINE_bool("submit", False, "Only write a file for sbatch.")
_REPORT = flags.DEFINE_bool("report", False, "Only report the finished runs.")
_JOB = flags.DEFINE_integer("job", None, "Run only the job with this index.")
_TRIAL = flags.DEFINE_bool("trial", False, "With --job: train, do not evaluate.")
_END = flags.DEFINE_bool("end_with_stdin", False, "Stop when standard input closes.")


def _study() -> tuple[ml_collections.ConfigDict, pathlib.Path]:
    """Return the study's config and folder, from the flags or as recorded there."""
    if _CONFIG.value is None:
        if not _WORKDIR.value:
            raise UserError(
                "--config: required; pass configs/study_..., or --workdir of a study"
            )
        workdir = _WORKDIR.value
        path = workdir / session.CONFIG_FILE
        if not path.exists():
            raise UserError(f"--workdir={workdir}: contains no study; pass --config")
        return ml_collections.ConfigDict(json.loads(path.read_text())).lock(), workdir
    return _CONFIG.value, _WORKDIR.value or options.default_workdir()


def _run_one(study, jobs) -> int:
    if not 0 <= _JOB.value < len(jobs):
        raise UserError(f"--job={_JOB.value}: must be 0 to {len(jobs) - 1}")
    if _END.value:
        runner.end_with_stdin()
    job = jobs[_JOB.value]
    if job.name in learning_rates.ruled_out(jobs):
        logging.info("nothing to do: %s has another learning rate", job.variant)
        return 0
    return jobs_lib.run(job, study, evaluate=not _TRIAL.value)


def _run() -> int:
    study, workdir = _study()
    jobs = jobs_lib.create(study, workdir)
    if _JOB.value is not None:
        return _run_one(study, jobs)
    session.record(study, workdir)
    if _SUBMIT.value:
        path = slurm.write(study, workdir, len(jobs))
        sys.stdout.write(
            f"{len(jobs)} jobs; submit them with\n  sbatch {path}\nand then run\n"
            f"  python -m sanorm_jax.study --workdir={workdir} --report\n"
        )
        return 0
    if _REPORT.value:
        jax.config.update("jax_platforms", "cpu")
        sys.stdout.write(f"{page.write(study, jobs, workdir)}\n")
        return 0
    session.check_data(study, jobs)
    code = session.run(study, jobs, workdir)
    if code != preemption.EXIT_CODE:
        sys.stdout.write(f"{page.write(study, jobs, workdir)}\n")
    return code


if __name__ == "__main__":
    options.run(_run, _CONFIG, kind="a study")
