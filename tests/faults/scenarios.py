"""The faults: done to real processes, whose run is compared to one left alone."""

import dataclasses
import itertools
import pathlib
import random
import re
import signal
import time
from collections.abc import Iterator

import jax
import ml_collections
import numpy as np

from sanorm_jax import evaluate
from sanorm_jax.run.distribution import cluster, preemption
from sanorm_jax.run.folder.workdir import saved_steps
from tests import tiny
from tests.faults import harm, processes
from tests.faults.processes import PHASES, Process

# How long after entering a phase a process may be killed.
DELAYS_S = {"compile": 1.0, "step": 0.01, "evaluation": 0.3, "checkpoint": 0.1}
# How many steps it may take for each time it enters the phase.
_MAX_STEPS = {"compile": 4, "step": 2, "evaluation": 8, "checkpoint": 4}
SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)


@dataclasses.dataclass
class Fault:
    """What was done, how often, what came of it, and what is wrong with that."""

    name: str
    count: int
    told: str
    problem: str = ""


class Scenarios:
    """Runs on small random data.

    Args:
      folder: for the data and the runs.
      seed: of the random moments.
    """

    def __init__(self, folder: pathlib.Path, seed: int = 0):
        self.folder = folder
        self.data_dir = folder / "data"
        processes.run_apart(lambda: tiny.data_dir(self.data_dir))
        self.random = random.Random(seed)
        self._seconds = {}
        processes.compile_quickly(folder / "compiled")

    def config(self, task: str = "dinosaur", **changes) -> ml_collections.ConfigDict:
        """Return an experiment of a second, with all that happens in a long one."""
        settings = {
            "update_normalization": "batch_norm",
            "num_train_steps": 64,
            "log_every_steps": 2,
            "checkpoint_every_steps": 4,
            "evaluate_every_steps": 8,
        }
        return tiny.config(self.data_dir, task, **(settings | changes))

    def _whole(self, config, name: str, hosts: int = 1) -> pathlib.Path:
        """Return the folder of a run left alone."""
        path = self.folder / f"whole_{name}"
        if not path.exists():
            started = time.monotonic()
            _finish(config, path, hosts)
            self._seconds[name] = time.monotonic() - started
        return path

    def _wait(self, process: Process, phase: str, max_count: int = 3) -> str:
        """Wait for a random moment of a phase; returns what moment it is.

        The process then is at most `_MAX_STEPS[phase] * max_count` steps further.
        """
        count = 1 if phase == "compile" else self.random.randint(1, max_count)
        process.entered.allow(_MAX_STEPS[phase] * count)
        if not process.wait_for(phase, count):
            raise RuntimeError(f"ended before {phase} {count}:\n{process.said()}")
        delay = self.random.uniform(0, DELAYS_S[phase])
        time.sleep(delay)
        return f"{phase} {count} + {delay * 1000:.0f} ms"

    def kills(self, task: str, count: int) -> Iterator[Fault]:
        """Kills a run again and again, in every phase, and lets it end at last."""
        # Longer than all that the kills let it take.
        config = self.config(task, num_train_steps=14 * count)
        path = self.folder / f"killed_{task}"
        whole = self._whole(config, f"{task}_{count}")
        moments = {phase: [] for phase in PHASES}
        for phase in itertools.islice(itertools.cycle(PHASES), count):
            before = _compile_anew if phase == "compile" else lambda: None
            process = processes.start(config, path, before=before, max_steps=0)
            moment = self._wait(process, phase)
            process.send(signal.SIGKILL)
            if process.wait() != -signal.SIGKILL:
                raise RuntimeError(f"not killed at {moment}:\n{process.said()}")
            moments[phase].append(f"{moment}, saved {saved_steps(path)[-1:]}")
        _finish(config, path)
        problem = processes.difference(whole, path)
        for phase, told in moments.items():
            yield Fault(f"{task}: SIGKILL in {phase}", len(told), told[-1], problem)

    def signals(self, numbers=SIGNALS) -> Iterator[Fault]:
        """Asks a run to stop, with each of the signals."""
        config, path = self.config(), self.folder / "signals"
        told = {}
        for number in numbers:
            process = processes.start(config, path, max_steps=0)
            moment = self._wait(process, "step", 8)
            process.send(number)
            code = process.wait()
            told[number] = f"{moment}: exit code {code}, saved at "
            told[number] += str(saved_steps(path)[-1:])
            if code != preemption.EXIT_CODE:
                yield Fault(f"{number.name}", 1, told[number], process.said())
        _finish(config, path)
        problem = processes.difference(self._whole(config, "dinosaur"), path)
        for number, text in told.items():
            yield Fault(number.name, 1, text, problem)

    def second_interrupt(self) -> Iterator[Fault]:
        """Interrupts twice, while XLA compiles."""
        path = self.folder / "interrupted"
        process = processes.start(self.config(), path, before=_compile_anew)
        process.wait_for("compile")
        process.send(signal.SIGINT)
        time.sleep(0.05)
        process.send(signal.SIGINT)
        code, steps = process.wait(), process.entered["step"]
        problem = "" if code == 130 and not steps else process.said()
        told = f"while compiling: exit code {code} after {steps} more steps"
        yield Fault("second SIGINT", 1, told, problem)

    def time_limit(self) -> Iterator[Fault]:
        """Let the time run out in training, and in an evaluation without an end."""
        self._whole(self.config(), "dinosaur")
        limit_s = 10 + self._seconds["dinosaur"]  # enough to get there
        endless = lambda *args, **kwargs: time.sleep(600)  # noqa: E731

        def hang():
            evaluate.Evaluator.run = endless

        limit_h = limit_s / 3600
        far = {"num_train_steps": 1_000_000, "evaluate_every_steps": 1_000_000}
        path = self.folder / "limit"
        for name, changes, folder, before in (
            ("evaluation", {}, path, hang),
            ("training", far, self.folder / "limit_far", lambda: None),
        ):
            config, started = self.config(time_limit_h=limit_h, **changes), time.time()
            process = processes.start(config, folder, before=before)
            code, took = process.wait(2 * limit_s), time.time() - started
            saved = saved_steps(folder)[-1:]
            told = f"exit code {code}, {took:.1f} of {limit_s:.1f} s, saved {saved}"
            good = code == preemption.EXIT_CODE and took < limit_s + 1 and saved
            problem = "" if good else process.said()
            yield Fault(f"time limit in {name}", 1, told, problem)
        _finish(self.config(), path)
        problem = processes.difference(self._whole(self.config(), "dinosaur"), path)
        yield Fault("start after the time limit", 1, "goes on", problem)

    def damage(self) -> Iterator[Fault]:
        """Damages the newest checkpoint of a stopped run, in several ways."""
        config, path = self.config(), self.folder / "damaged"
        faults = []
        for name, damage in harm.DAMAGES.items():
            _stop_by_signal(config, path, 10)
            step = saved_steps(path)[-1]
            damage(path / "checkpoints" / str(step))
            process = _stop_by_signal(config, path, 1)
            said = f"checkpoint of step {step} is damaged" in process.said()
            told = f"step {step}; " + ("said" if said else "not said")
            faults.append(Fault(f"checkpoint {name}", 1, told))
            if not said:
                faults[-1].problem = process.said()
        _finish(config, path)
        problem = processes.difference(self._whole(config, "dinosaur"), path)
        for fault in faults:
            fault.problem = fault.problem or problem
            yield fault

    def full_disk(self) -> Iterator[Fault]:
        """Fill the disk that a run writes to, and makes room again."""
        config = self.config()
        # What the process says lies beside the folder, and so not on that disk.
        with harm.small_disk(self.folder / "full_disk") as path:
            process = processes.start(config, path, max_steps=17)
            process.wait_for("checkpoint", 4)
            harm.fill(path / "filler")
            kept = saved_steps(path)
            process.entered.allow(33)
            process.wait_for("checkpoint", 8)
            full = saved_steps(path)
            (path / "filler").unlink()
            process.entered.allow(processes.ANY)
            code, said = process.wait(), process.said().count("not saved")
            problem = processes.difference(self._whole(config, "dinosaur"), path)
            if code or not said or not full:
                problem = process.said()
            told = f"{said} checkpoints not saved, said so; {kept} before, {full} while"
            yield Fault("full disk", 1, f"{told} full; exit code {code}", problem)

    def lost_store(self) -> Iterator[Fault]:
        """Take a store away, and then its contents, while a run reads it."""
        config, path = self.config(num_train_steps=4000), self.folder / "lost"
        store = self.data_dir / "random-random"
        for name, lose in (("gone", harm.hidden), ("truncated", harm.truncated)):
            process = processes.start(config, path)
            process.wait_for("step", 8)
            with lose(store):
                code = process.wait()
            said = [x for x in process.said().splitlines() if x.startswith("error: ")]
            saved = saved_steps(path)
            problem = "" if code == 1 and len(said) == 1 and saved else process.said()
            told = f"exit code {code}, saved {saved[-1:]}; {' '.join(said)}"
            yield Fault(f"store {name}", 1, told, problem)
        step = saved[-1]
        shorter = self.config(num_train_steps=step + 8)
        _finish(shorter, path)
        whole = self.folder / "whole_lost"
        _finish(shorter, whole)
        expected, found = processes.leaves(whole), processes.leaves(path)
        problem = "" if expected == found else "the leaves differ"
        yield Fault("start after the store is back", 1, "goes on", problem)

    def not_finite(self) -> Iterator[Fault]:
        """Make the loss infinite."""
        config = self.config(optimizer__learning_rate=1e30)
        process = processes.start(config, self.folder / "nan")
        code = process.wait()
        said = [x for x in process.said().splitlines() if x.startswith("error: ")]
        good = code == 1 and "not finite at step" in "".join(said)
        told = f"exit code {code}; {' '.join(said)}"
        yield Fault("loss not finite", 1, told, "" if good else process.said())

    def hosts(self, count: int, victims: tuple[int, ...]) -> Iterator[Fault]:
        """Kills one of several hosts, and asks one to stop."""
        # Little of it: the processes share the cores, and wait for each other.
        config = self.config(num_train_steps=40)
        whole = self._whole(config, f"{count}_hosts", count)
        alone = self._whole(config, "one_host")
        told, problem = _close(alone, whole)
        yield Fault(f"{count} hosts, none lost", 1, told, problem)
        path = self.folder / f"lost_of_{count}_hosts"
        faults = []
        for victim in victims:
            # The others wait for the victim, which takes no more than these.
            phase, max_steps = self.random.choice(
                (("step", 4), ("evaluation", 9), ("checkpoint", 5))
            )
            hosts = processes.start_hosts(config, path, count, _be_impatient, max_steps)
            watched = hosts[0 if phase == "checkpoint" else victim]
            if not watched.wait_for(phase):
                raise RuntimeError(f"ended before {phase}:\n{watched.said()}")
            delay = self.random.uniform(0, DELAYS_S[phase])
            time.sleep(delay)
            moment = f"{phase} 1 + {delay * 1000:.0f} ms"
            hosts[victim].send(signal.SIGKILL)
            started = time.monotonic()
            codes = _wait_for_all(hosts)
            told = f"{moment}: exit codes {codes} in {time.monotonic() - started:.1f} s"
            faults.append(Fault(f"{count} hosts, {victim} killed", 1, told))
            left = [host for host in hosts if host is not hosts[victim]]
            clear = all(_END_OF_ANOTHER.search(host.said()) for host in left)
            if {0, preemption.EXIT_CODE} & set(codes) or not clear:
                faults[-1].problem = "\n".join(host.said() for host in hosts)
        hosts = processes.start_hosts(config, path, count, max_steps=4)
        hosts[-1].wait_for("step")
        hosts[-1].send(signal.SIGTERM)
        for host in hosts:
            host.entered.allow(processes.ANY)
        codes = _wait_for_all(hosts)
        faults.append(Fault(f"{count} hosts, SIGTERM to one", 1, f"exit codes {codes}"))
        if set(codes) != {preemption.EXIT_CODE}:
            faults[-1].problem = "\n".join(host.said() for host in hosts)
        _finish(config, path, count)
        problem = processes.difference(whole, path)
        for fault in faults:
            fault.problem = fault.problem or problem
            yield fault


def _compile_anew():
    jax.config.update("jax_enable_compilation_cache", False)


# Of the program, or of JAX where it aborts the process.
_END_OF_ANOTHER = re.compile("error: host|Terminating process because")


def _be_impatient():
    cluster.HEARTBEAT_TIMEOUT_S = 10


def _wait_for_all(hosts: list[Process]) -> list[int]:
    try:
        return [host.wait() for host in hosts]
    finally:
        processes.end_all(hosts)


def _finish(config, path: pathlib.Path, hosts: int = 1):
    """Let a run end; an error with its log if it does not."""
    if hosts > 1:
        started = processes.start_hosts(config, path, hosts)
    else:
        started = [processes.start(config, path)]
    codes = _wait_for_all(started)
    if any(codes):
        logs = "\n".join(process.said()[-3000:] for process in started)
        raise RuntimeError(f"{path} ended with {codes}:\n{logs}")


def _stop_by_signal(config, path: pathlib.Path, steps: int) -> Process:
    process = processes.start(config, path, max_steps=steps + 1)
    process.wait_for("step", steps)
    process.send(signal.SIGTERM)
    process.wait()
    return process


def _close(alone: pathlib.Path, together: pathlib.Path) -> tuple[str, str]:
    """Compare all metrics of one process and of several hosts."""
    worst = 0.0
    for one, other in zip(
        processes.metrics(alone), processes.metrics(together), strict=True
    ):
        if one.keys() != other.keys():
            return "", f"logged {sorted(one)} alone and {sorted(other)} together"
        ones, others = (np.array([*x.values()], float) for x in (one, other))
        worst = max(worst, float(np.abs(ones - others).max()))
    told = f"metrics as of one process within {worst:.1e}"
    return told, "" if worst < 1e-4 else told
