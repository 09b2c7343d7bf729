"""Processes that run the jobs of a study on this machine."""

import dataclasses
import json
import os
import pathlib
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence

from absl import logging

from sanorm_jax.core import files, progress
from sanorm_jax.run.distribution import preemption
from sanorm_jax.study.jobs import Job

LOG_FILE = "log.txt"
SESSIONS_FILE = "sessions.json"
_POLL_S = 0.2
_WRITE_EVERY_S = 10.0


def num_processes(wanted: int) -> int:
    """Return the number of jobs that run at once: one per core, or one on a GPU.

    Small models do not keep several cores busy, so processes with one core each take
    more steps in total. `wanted` replaces the default unless 0.
    """
    if wanted:
        return wanted
    # Ask in a subprocess: this process would keep the memory of the accelerator.
    code = "import jax; print(jax.default_backend())"
    found = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False
    )
    is_cpu = found.stdout.strip() == "cpu"
    return len(os.sched_getaffinity(0)) if is_cpu else 1


@dataclasses.dataclass
class _Running:
    job: Job
    process: subprocess.Popen
    core: int | None
    started: float


def _start(job: Job, workdir: pathlib.Path, core: int | None, is_trial: bool):
    command = [
        sys.executable,
        "-m",
        "sanorm_jax.study",
        f"--workdir={workdir}",
        f"--job={job.index}",
        "--end_with_stdin",
        *(("--trial",) if is_trial else ()),
    ]
    # Large pages, as in the Makefile, unless the user has set the variable.
    environment = {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"} | os.environ
    job.workdir.mkdir(parents=True, exist_ok=True)
    everywhere = os.sched_getaffinity(0)
    with (job.workdir / LOG_FILE).open("ab") as log:
        if core is not None:
            os.sched_setaffinity(0, {core})  # inherited by the new process
        try:
            process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=log, stderr=log, env=environment
            )
        finally:
            os.sched_setaffinity(0, everywhere)
    return _Running(job, process, core, time.time())


def run(
    jobs: Sequence[Job],
    workdir: pathlib.Path,
    processes: int,
    stop: preemption.Preemption,
    trials: bool = False,
) -> dict[str, int]:
    """Run jobs of a study until all have ended or a stop is requested.

    Several jobs at once (`processes`) are pinned to one core each, if there are enough
    cores. On a request to stop, every job saves and ends. Trials only train.

    Returns:
      The exit code of each job that was started, by name.
    """
    cores = sorted(os.sched_getaffinity(0))
    free: list[int | None] = [None] * processes
    if 1 < processes <= len(cores):
        free = list(cores[:processes])
    waiting, running, codes = list(jobs), [], {}
    session = _Session(workdir)
    signalled = False
    outcomes = {0: "finished", preemption.EXIT_CODE: "stopped"}
    title = "trials of learning rates" if trials else f"study {workdir}"
    with progress.Progress(title, len(jobs), "runs") as bar:
        while waiting or running:
            if stop.requested() and not signalled:
                # Signal only once: a second signal would kill a job before it has
                # saved.
                waiting, signalled = [], True
                for one in running:
                    one.process.send_signal(signal.SIGTERM)
            while waiting and free:
                job = waiting.pop(0)
                running.append(_start(job, workdir, free.pop(0), trials))
                logging.info("started: %s (%d waiting)", job.name, len(waiting))
            time.sleep(_POLL_S)
            for one in [one for one in running if one.process.poll() is not None]:
                running.remove(one)
                free.append(one.core)
                codes[one.job.name] = code = one.process.returncode
                one.process.stdin.close()
                logging.info(
                    "%s: %s after %.0f s; %d running, %d waiting",
                    one.job.name,
                    outcomes.get(code, f"failed with exit code {code}"),
                    time.time() - one.started,
                    len(running),
                    len(waiting),
                )
                bar.advance(1)
            session.write()
    session.write(now=True)
    return codes


def last_words(job: Job) -> str:
    """Return the error message of a failed job, or the last line that it wrote."""
    path = job.workdir / LOG_FILE
    lines = path.read_text(errors="replace").split("\n") if path.exists() else []
    lines = [line for line in lines if line.strip()]
    errors = [line for line in lines if line.startswith("error: ")]
    return (errors or lines or ["no message"])[-1].removeprefix("error: ")


class _Session:
    """Record of the time that a study has taken, over all starts."""

    def __init__(self, workdir: pathlib.Path):
        self._path = workdir / SESSIONS_FILE
        self._before = _read_sessions(self._path)
        self._started = self._written = time.time()

    def write(self, now: bool = False):
        """Write the seconds so far, at most every `_WRITE_EVERY_S` unless `now`."""
        if now or time.time() - self._written >= _WRITE_EVERY_S:
            self._written = time.time()
            this = {"started": self._started, "seconds": self._written - self._started}
            files.write(self._path, files.to_json([*self._before, this]))


def _read_sessions(path: pathlib.Path) -> list[dict[str, float]]:
    return json.loads(path.read_text()) if path.exists() else []


def wall_time_s(workdir: pathlib.Path) -> float:
    """Return the seconds that a study has taken on this machine, over all starts."""
    return sum(s["seconds"] for s in _read_sessions(workdir / SESSIONS_FILE))


def end_with_stdin():
    """Save and stop this process when its standard input closes.

    A job therefore stops with the study that started it, even if the study is killed.
    """

    def wait():
        os.read(0, 1)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=wait, daemon=True).start()
