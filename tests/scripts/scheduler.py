"""A fake Slurm that runs batch scripts, requeues jobs and signals job steps."""

import json
import os
import pathlib
import subprocess
import sys
import time
from collections.abc import Callable

ROOT = pathlib.Path(__file__).parents[2]
SLURM = ROOT / "scripts" / "slurm"
TIMEOUT_S = 1200  # for a hanging command, generous because the machine may be busy

# Like Slurm's srun: removes its own options, starts the tasks and returns the maximum
# exit code.
_SRUN = """#!{python}
import json, os, pathlib, signal, subprocess, sys
words = sys.argv[1:]
options = []
while words[0].startswith("--"):
    options.append(words.pop(0))
count = int(os.environ["FAKE_SLURM_TASKS"])
def environment(index):
    more = {{"SLURM_PROCID": str(index), "SLURM_STEP_NUM_TASKS": str(count),
            "SLURM_STEP_NODELIST": "localhost"}}
    return os.environ | more
tasks = [subprocess.Popen(words, env=environment(i)) for i in range(count)]
for number in (signal.SIGTERM, signal.SIGUSR1):
    signal.signal(number, lambda n, _: [task.send_signal(n) for task in tasks])
step = pathlib.Path(os.environ["FAKE_SLURM_STEP"])
partial = step.with_suffix(".partial")
partial.write_text(json.dumps({{"options": options, "command": words,
                               "pids": [task.pid for task in tasks]}}))
partial.replace(step)
codes = [task.wait() for task in tasks]
sys.exit(max(code if code >= 0 else 128 - code for code in codes))
"""
_SCONTROL = """#!/bin/bash
[ "$FAKE_SCONTROL_FAILS" = yes ] && { echo "scontrol: not permitted" >&2; exit 1; }
echo "$*" >> "$FAKE_SLURM_REQUESTS"
"""


class Scheduler:
    """A scheduler that runs one job, and again after each request to requeue it.

    Args:
      folder: Folder for the fake Slurm commands and their output.
      num_tasks: Number of processes that `srun` starts.
      array_task: Index and length if the job is a task of an array.
      environment: Variables for the job, added to `environment`.

    Attributes:
      environment: All variables of the next start.
    """

    def __init__(
        self,
        folder: pathlib.Path,
        *,
        num_tasks: int = 1,
        array_task: tuple[int, int] | None = None,
        environment: dict[str, str] | None = None,
    ):
        self._requests = folder / "requests.txt"
        self._step = folder / "step.json"
        self._spool = folder / "slurm_script"
        (folder / "bin").mkdir()
        for name, text in (
            ("srun", _SRUN.format(python=sys.executable)),
            ("scontrol", _SCONTROL),
        ):
            (folder / "bin" / name).write_text(text)
            (folder / "bin" / name).chmod(0o755)
        # Unique among parallel tests, because it determines the port (see cluster.py).
        job = str(os.getpid())
        self.environment = os.environ | {
            "PATH": f"{folder / 'bin'}:{os.environ['PATH']}",
            "PYTHON": sys.executable,
            "SLURM_JOB_ID": job,
            "FAKE_SLURM_TASKS": str(num_tasks),
            "FAKE_SLURM_REQUESTS": str(self._requests),
            "FAKE_SLURM_STEP": str(self._step),
        }
        self._name = job
        if array_task:
            index, length = array_task
            self._name = f"{job}_{index}"
            self.environment |= {
                "SLURM_ARRAY_JOB_ID": job,
                "SLURM_ARRAY_TASK_ID": str(index),
                "SLURM_ARRAY_TASK_COUNT": str(length),
            }
        self.environment |= environment or {}

    def start(self, command: list[str]) -> subprocess.Popen:
        """Start a command in the environment of a batch script."""
        self._step.unlink(missing_ok=True)
        return subprocess.Popen(
            [str(word) for word in command],
            cwd=ROOT,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def step(self) -> dict | None:
        """Return options, command and process IDs of the running step, if any."""
        return json.loads(self._step.read_text()) if self._step.exists() else None

    def requeued(self) -> list[str]:
        """Return the calls of `scontrol requeue` so far, without its other calls."""
        if not self._requests.exists():
            return []
        lines = self._requests.read_text().splitlines()
        return [line for line in lines if line.startswith("requeue")]

    def run(
        self,
        script: pathlib.Path,
        arguments: list[str],
        during: Callable[[int, subprocess.Popen], None] | None = None,
        max_starts: int = 10,
    ) -> tuple[list[int], str]:
        """Run a batch script until it no longer requests to be requeued.

        Args:
          script: Path of the script; a copy is run, as under Slurm.
          arguments: Arguments of the script.
          during: Function of the index of the start and the process, called after
            each start.
          max_starts: Maximum number of starts.

        Returns:
          The exit codes and the combined output.
        """
        self._spool.write_text(script.read_text())
        codes, output = [], ""
        while len(codes) < max_starts:
            before = len(self.requeued())
            job = self.start(["bash", self._spool, *arguments])
            try:
                if during:
                    during(len(codes), job)
                output += job.communicate(timeout=TIMEOUT_S)[0]
            except BaseException:
                for pid in (self.step() or {"pids": []})["pids"]:
                    end(pid)
                job.kill()
                raise
            codes.append(job.returncode)
            requests = self.requeued()[before:]
            if not requests:
                break
            assert requests == [f"requeue {self._name}"]
        return codes, output


def end(pid: int):
    """Kill a process if it is still running."""
    try:
        os.kill(pid, 9)
    except ProcessLookupError:
        return


def wait_for(condition: Callable[[], bool], job: subprocess.Popen):
    """Poll until `condition` holds; fail if the job ends or the timeout is reached."""
    deadline = time.monotonic() + TIMEOUT_S
    while not condition():
        assert job.poll() is None, job.communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.01)
