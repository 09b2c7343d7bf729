"""Training in processes that can be monitored and killed.

They are forked from a process that has imported all modules but computed nothing. A
start therefore does not spend seconds on imports.
"""

import dataclasses
import json
import mmap
import os
import pathlib
import signal
import socket
import struct
import sys
import time
import traceback
from collections.abc import Callable

import jax
import ml_collections
from absl import logging

from sanorm_jax import evaluate, train
from sanorm_jax.core.errors import UserError
from sanorm_jax.run.distribution import cluster, devices
from sanorm_jax.run.folder import checkpoints as checkpoints_lib
from sanorm_jax.run.folder import writers
from sanorm_jax.run.folder.workdir import read_lines, saved_steps

PHASES = ("compile", "step", "evaluation", "checkpoint")
ANY = 2**31 - 1  # number of steps
TIMEOUT_S = 1200  # for one process, generous because the machine may be busy


class Entered:
    """Counts of how often a process has entered each phase, in shared memory.

    Also holds the number of steps that the process may take before it waits. A run
    therefore cannot end before its fault is injected.
    """

    def __init__(self, max_steps: int):
        self._counts = mmap.mmap(-1, 4 * len(PHASES) + 4)
        self.allow(max_steps)

    def allow(self, steps: int):
        """Set the total number of steps that the process may take."""
        struct.pack_into("i", self._counts, 4 * len(PHASES), steps)

    def wait(self):
        """Block the calling process until its next step is allowed."""
        while (
            self["compile"] + self["step"]
            >= struct.unpack_from("i", self._counts, 4 * len(PHASES))[0]
        ):
            time.sleep(0.001)

    def __getitem__(self, phase: str) -> int:
        return struct.unpack_from("i", self._counts, 4 * PHASES.index(phase))[0]

    def add(self, phase: str):
        """Count one more entry into a phase."""
        offset = 4 * PHASES.index(phase)
        struct.pack_into("i", self._counts, offset, self[phase] + 1)

    def watch(self, kind: type, method: str, phase: str):
        """Count all future calls of a method as entries into a phase."""
        original = getattr(kind, method)

        def counted(*args, **kwargs):
            self.add(phase)
            return original(*args, **kwargs)

        setattr(kind, method, counted)


def _watch_steps(entered: Entered):
    original = devices.Devices.compile_train_step

    def compile_train_step(devices, step):
        compiled = original(devices, step)

        def run(state, batch):
            entered.wait()
            entered.add("step" if entered["compile"] else "compile")
            return compiled(state, batch)

        return run

    devices.Devices.compile_train_step = compile_train_step


@dataclasses.dataclass
class Process:
    """A training process and the file with its output."""

    pid: int
    entered: Entered
    log: pathlib.Path

    def wait(self, timeout_s: float = TIMEOUT_S) -> int:
        """Return the exit code, or the negative number of the signal that ended it."""
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                return os.waitstatus_to_exitcode(status)
            time.sleep(0.002)
        self.send(signal.SIGKILL)
        os.waitpid(self.pid, 0)
        raise TimeoutError(f"process did not end in {timeout_s} s:\n{self.output()}")

    def wait_for(self, phase: str, count: int = 1) -> bool:
        """Wait until a phase is entered; return False if the process has ended."""
        deadline = time.monotonic() + TIMEOUT_S
        while self.entered[phase] < count:
            if os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT):
                return False
            if time.monotonic() > deadline:
                self.wait(0)
            time.sleep(0.0005)
        return True

    def send(self, number: int):
        """Send a signal and lift the limit on steps."""
        os.kill(self.pid, number)
        self.entered.allow(ANY)

    def output(self) -> str:
        """Return the process's stdout and stderr."""
        return self.log.read_text(errors="replace")


def start(
    config: ml_collections.ConfigDict,
    path: pathlib.Path,
    hosts: tuple[str, int, int] | None = None,
    before: Callable[[], None] = lambda: None,
    max_steps: int = ANY,
) -> Process:
    """Start training in a separate process.

    Args:
      config: Config of the run.
      path: Folder of the run.
      hosts: Coordinator, number of processes, and index of this process.
      before: Function that the process calls before training.
      max_steps: Number of steps that the process takes before it waits for a signal.
    """
    entered = Entered(max_steps)
    name = f"{path.name}.{hosts[2] if hosts else 0}.log"
    process = Process(0, entered, path.parent / name)
    process.log.parent.mkdir(parents=True, exist_ok=True)
    sys.stdout.flush()
    sys.stderr.flush()
    process.pid = os.fork()
    if not process.pid:
        _train(process, config, path, hosts, before)
    return process


def _train(process, config, path, hosts, before):
    code = 1
    try:
        log = os.open(process.log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(log, 1)
        os.dup2(log, 2)
        logging.set_verbosity(logging.INFO)
        logging.use_absl_handler()
        process.entered.watch(evaluate.Evaluator, "run", "evaluation")
        process.entered.watch(checkpoints_lib.Checkpoints, "save", "checkpoint")
        _watch_steps(process.entered)
        before()
        with cluster.joined_hosts(*(hosts or ())):
            code = train.train(config, path)
    except UserError as error:
        sys.stderr.write(f"error: {error}\n")
    except BaseException:
        traceback.print_exc()
    finally:
        # `os._exit` skips exit handlers, because some of them belong to the parent.
        if jax.distributed.is_initialized():
            jax.distributed.shutdown()
        sys.stderr.flush()
        os._exit(code)


def run_apart(function: Callable[[], object]):
    """Run a function in a child process, so that this process starts no threads."""
    pid = os.fork()
    if not pid:
        try:
            function()
            os._exit(0)
        finally:
            os._exit(1)
    if os.waitpid(pid, 0)[1]:
        raise RuntimeError("failed in a child process")


def start_hosts(
    config, path, count: int, before=lambda: None, max_steps: int = ANY
) -> list[Process]:
    """Start the processes of one run on several hosts."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        address = f"localhost:{free.getsockname()[1]}"
    return [
        start(config, path, (address, count, i), before, max_steps)
        for i in range(count)
    ]


def end_all(processes: list[Process]):
    """Kill the processes that are still running."""
    for process in processes:
        try:
            process.send(signal.SIGKILL)
            os.waitpid(process.pid, 0)
        except (ProcessLookupError, ChildProcessError):
            pass


def leaves(path: pathlib.Path) -> dict:
    """Return shape, dtype and CRC of all leaves of the newest checkpoint."""
    step = saved_steps(path)[-1]
    meta = path / "checkpoints" / str(step) / "meta" / "metadata"
    return json.loads(meta.read_text())["leaves"]


def metrics(path: pathlib.Path) -> list[dict]:
    """Return the logged lines without the time measurements."""
    lines = read_lines(path / writers.METRICS_FILE)
    return [
        {k: v for k, v in line.items() if not k.startswith("time/")} for line in lines
    ]


def difference(uninterrupted: pathlib.Path, run: pathlib.Path) -> str:
    """Describe how a run differs from an uninterrupted one; empty if it does not."""
    if saved_steps(uninterrupted)[-1:] != saved_steps(run)[-1:]:
        return f"ended at step {saved_steps(run)[-1:]}"
    expected, found = leaves(uninterrupted), leaves(run)
    if other := [k for k in expected | found if expected.get(k) != found.get(k)]:
        return f"{len(other)} of {len(expected)} leaves differ, such as {other[0]}"
    if metrics(uninterrupted) != metrics(run):
        return "the logged metrics differ"
    lines = read_lines(run / writers.METRICS_FILE)
    walls = [line["time/wall_s"] for line in lines if "time/wall_s" in line]
    if walls != sorted(walls):
        return "the wall time decreased"
    return ""


def compile_quickly(cache: pathlib.Path):
    """Share a compilation cache among the processes; it does not affect results."""
    jax.config.update("jax_compilation_cache_dir", str(cache))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", 0)
