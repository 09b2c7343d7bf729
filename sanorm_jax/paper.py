"""Runs several studies and writes one page: `python -m sanorm_jax.paper`.

Each study lies in a folder of its name, as `python -m sanorm_jax.study` makes it. The
page is written anew after each study, and whenever this is stopped; started again, it
goes on where it stopped.
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
    codes, path = [0], None
    for name, study in () if report_only else paper.studies.items():
        logging.info("study %s: %s", name, study.title)
        session.record(study, workdir / name)
        codes.append(session.run(study, jobs[name], workdir / name))
        stopped = codes[-1] == preemption.EXIT_CODE
        if not stopped and any(jobs_lib.is_finished(j, study) for j in jobs[name]):
            page.write(study, jobs[name], workdir / name)
        # What was stopped, or failed, may have nothing to show.
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
    config = options.define_config("File of the studies; configs/paper.py if unset.")
    workdir = commands.define_path(
        "workdir", "experiments/paper", "Folder of the runs."
    )
    report = flags.DEFINE_bool("report", False, "Write the page of what is done.")
    options.run(
        lambda: _run(config.value, workdir.value, report.value),
        config,
        default="configs/paper.py",
    )
