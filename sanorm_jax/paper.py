"""Run several studies and write one report: `python -m sanorm_jax.paper`.

Each study has a folder of its name, like that of `python -m sanorm_jax.study`. The
report is updated after each study and when the command is stopped. The same command
resumes.
"""

import contextlib
import pathlib
import sys

from absl import flags, logging

from sanorm_jax.command_line import options
from sanorm_jax.core import commands
from sanorm_jax.core.errors import UserError
from sanorm_jax.run.distribution import preemption
from sanorm_jax.study import jobs as jobs_lib
from sanorm_jax.study import page, session
from sanorm_jax.study import paper as paper_lib


def _run(paper, workdir: pathlib.Path, report_only: bool) -> int:
    jobs = {}
    for name, study in paper.studies.items():
        jobs[name] = jobs_lib.create(study, workdir / name)
    for name, study in () if report_only else paper.studies.items():
        session.record(study, workdir / name)
        session.check_data(study, jobs[name])
    codes, path = [0], None
    for name, study in () if report_only else paper.studies.items():
        logging.info("study %s: %s", name, study.title)
        codes.append(session.run(study, jobs[name], workdir / name))
        stopped = codes[-1] == preemption.EXIT_CODE
        if not stopped and any(jobs_lib.is_finished(j, study) for j in jobs[name]):
            page.write(study, jobs[name], workdir / name)
        # After a stop or a failure, there may be no finished run to report.
        with contextlib.suppress(*(UserError,) if any(codes) else ()):
            path = paper_lib.write(paper, jobs, workdir)
        if stopped:
            break
    if report_only:
        path = paper_lib.write(paper, jobs, workdir)
    if path:
        sys.stdout.write(f"{path}\n")
    return max(codes)


if __name__ == "__main__":
    config = options.define_config("Config of the studies; configs/paper.py if unset.")
    workdir = commands.define_path(
        "workdir", "experiments/paper", "Folder of the studies."
    )
    report = flags.DEFINE_bool("report", False, "Only report the finished runs.")
    options.run(
        lambda: _run(config.value, workdir.value, report.value),
        config,
        default="configs/paper.py",
        kind="several studies",
    )
