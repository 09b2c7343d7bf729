"""Faults in real processes, whose runs are compared with uninterrupted runs."""

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

# Maximum delay between entering a phase and the kill.
DELAYS_S = {"compile": 1.0, "step": 0.01, "evaluation": 0.3, "checkpoint": 0.1}
# Number of steps that a process may take for each entry into the phase.
_MAX_STEPS = {"compile": 4, "step": 2, "evaluation": 8, "checkpoint": 4}
SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)


@dataclasses.dataclass
class Fault:
    """An injected fault.

    Attributes:
      name: Description of the fault.
      count: Number of times that it was injected.
      observed: Effect on the run.
      problem: Description of what went wrong; empty if the run survived.
    """

    name: str
    count: int
    observed: str
    problem: str = ""


class Scenarios:
    """Scenarios that train on small random data.

    Args:
      folder: Folder for the data and the runs.
      seed: Seed of the random moments.
    """

    def __init__(self, folder: pathlib.Path, seed: int = 0):
        self.folder = folder
        self.data_dir = folder / "data"
        processes.run_apart(lambda: tiny.data_dir(self.data_dir))
        self.random = random.Random(seed)
        self._seconds = {}
        processes.compile_quickly(folder / "compiled")

    def config(self, task: str = "dinosaur", **changes) -> ml_collections.ConfigDict:
        """Return a config that trains for a second and passes through every phase."""
        settings = {
            "update_normalization": "batch_norm",
            "num_train_steps": 64,
            "log_every_steps": 2,
            "checkpoint_every_steps": 4,
            "evaluate_every_steps": 8,
        }
        return tiny.config(self.data_dir, task, **(settings | changes))

    def _whole(self, config, name: str, hosts: int = 1) -> pathlib.Path:
        """Return the folder of an uninterrupted run."""
        path = self.folder / f"whole_{name}"
        if not path.exists():
            started = time.monotonic()
            _finish(config, path, hosts)
            self._seconds[name] = time.monotonic() - started
        return path

    def _wait(self, process: Process, phase: str, max_count: int = 3) -> str:
        """Wait for a random moment of a phase and return its description.

        Until then, the process takes at most `_MAX_STEPS[phase] * max_count` steps.
        """
        count = 1 if phase == "compile" else self.random.randint(1, max_count)
        process.entered.allow(_MAX_STEPS[phase] * count)
        if not process.wait_for(phase, count):
            raise RuntimeError(f"ended before {phase} {count}:\n{process.output()}")
        delay = self.random.uniform(0, DELAYS_S[phase])
        time.sleep(delay)
        return f"{phase} {count} + {delay * 1000:.0f} ms"

    def kills(self, task: str, count: int) -> Iterator[Fault]:
        """Kill a run repeatedly, in every phase, and finally let it finish."""
        # More steps than the run can take before the last kill.
        config = self.config(task, num_train_steps=14 * count)
        path = self.folder / f"killed_{task}"
        whole = self._whole(config, f"{task}_{count}")
        moments = {phase: [] for phase in PHASES}
        for phase in itertools.islice(itertools.cycle(PHASES), count):
            before = _disable_compilation_cache if phase == "compile" else lambda: None
            process = processes.start(config, path, before=before, max_steps=0)
            moment = self._wait(process, phase)
            process.send(signal.SIGKILL)
            if process.wait() != -signal.SIGKILL:
                raise RuntimeError(f"not killed at {moment}:\n{process.output()}")
            moments[phase].append(f"{moment}, saved {saved_steps(path)[-1:]}")
        _finish(config, path)
        problem = processes.difference(whole, path)
        for phase, observed in moments.items():
            yield Fault(
                f"{task}: SIGKILL in {phase}", len(observed), observed[-1], problem
            )

    def signals(self, numbers=SIGNALS) -> Iterator[Fault]:
        """Stop a run with each of the signals."""
        config, path = self.config(), self.folder / "signals"
        observed = {}
        for number in numbers:
            process = processes.start(config, path, max_steps=0)
            moment = self._wait(process, "step", 8)
            process.send(number)
            code = process.wait()
            observed[number] = f"{moment}: exit code {code}, saved at "
            observed[number] += str(saved_steps(path)[-1:])
            if code != preemption.EXIT_CODE:
                yield Fault(f"{number.name}", 1, observed[number], process.output())
        _finish(config, path)
        problem = processes.difference(self._whole(config, "dinosaur"), path)
        for number, text in observed.items():
            yield Fault(number.name, 1, text, problem)

    def second_interrupt(self) -> Iterator[Fault]:
        """Interrupt a run twice while XLA compiles."""
        path = self.folder / "interrupted"
        process = processes.start(
            self.config(), path, before=_disable_compilation_cache
        )
        process.wait_for("compile")
        process.send(signal.SIGINT)
        time.sleep(0.05)
        process.send(signal.SIGINT)
        code, steps = process.wait(), process.entered["step"]
        problem = "" if code == 130 and not steps else process.output()
        observed = f"while compiling: exit code {code} after {steps} more steps"
        yield Fault("second SIGINT", 1, observed, problem)

    def time_limit(self) -> Iterator[Fault]:
        """Reach the time limit in training, and in an evaluation that never ends."""
        self._whole(self.config(), "dinosaur")
        limit_s = 10 + self._seconds["dinosaur"]  # enough to reach the evaluation
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
            observed = f"exit code {code}, {took:.1f} of {limit_s:.1f} s, saved {saved}"
            good = code == preemption.EXIT_CODE and took < limit_s + 1 and saved
            problem = "" if good else process.output()
            yield Fault(f"time limit in {name}", 1, observed, problem)
        _finish(self.config(), path)
        problem = processes.difference(self._whole(self.config(), "dinosaur"), path)
        yield Fault("start after the time limit", 1, "resumes", problem)

    def damage(self) -> Iterator[Fault]:
        """Damage the newest checkpoint of a stopped run in several ways."""
        config, path = self.config(), self.folder / "damaged"
        faults = []
        for name, damage in harm.DAMAGES.items():
            _stop_by_signal(config, path, 10)
            step = saved_steps(path)[-1]
            damage(path / "checkpoints" / str(step))
            process = _stop_by_signal(config, path, 1)
            reported = f"checkpoint of step {step} is damaged" in process.output()
            observed = f"step {step}; " + ("reported" if reported else "not reported")
            faults.append(Fault(f"checkpoint {name}", 1, observed))
            if not reported:
                faults[-1].problem = process.output()
        _finish(config, path)
        problem = processes.difference(self._whole(config, "dinosaur"), path)
        for fault in faults:
            fault.problem = fault.problem or problem
            yield fault

    def full_disk(self) -> Iterator[Fault]:
        """Fill the disk to which a run writes, and free it again."""
        config = self.config()
        # The log of the process is next to the folder and therefore not on this disk.
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
            code, failures = process.wait(), process.output().count("not saved")
            problem = processes.difference(self._whole(config, "dinosaur"), path)
            if code or not failures or not full:
                problem = process.output()
            observed = (
                f"{failures} checkpoints reported as not saved; saved {kept} before, "
                f"{full} while full; exit code {code}"
            )
            yield Fault("full disk", 1, observed, problem)

    def lost_store(self) -> Iterator[Fault]:
        """Move a store away, and then truncate it, while a run reads it."""
        config, path = self.config(num_train_steps=4000), self.folder / "lost"
        store = self.data_dir / "random-random"
        for name, lose in (("gone", harm.hidden), ("truncated", harm.truncated)):
            process = processes.start(config, path)
            process.wait_for("step", 8)
            with lose(store):
                code = process.wait()
            errors = [
                x for x in process.output().splitlines() if x.startswith("error: ")
            ]
            saved = saved_steps(path)
            problem = (
                "" if code == 1 and len(errors) == 1 and saved else process.output()
            )
            observed = f"exit code {code}, saved {saved[-1:]}; {' '.join(errors)}"
            yield Fault(f"store {name}", 1, observed, problem)
        step = saved[-1]
        shorter = self.config(num_train_steps=step + 8)
        _finish(shorter, path)
        whole = self.folder / "whole_lost"
        _finish(shorter, whole)
        expected, found = processes.leaves(whole), processes.leaves(path)
        problem = "" if expected == found else "the leaves differ"
        yield Fault("start after the store is back", 1, "resumes", problem)

    def not_finite(self) -> Iterator[Fault]:
        """Train with a learning rate that makes the loss infinite."""
        config = self.config(optimizer__learning_rate=1e30)
        process = processes.start(config, self.folder / "nan")
        code = process.wait()
        errors = [x for x in process.output().splitlines() if x.startswith("error: ")]
        good = code == 1 and "not finite at step" in "".join(errors)
        observed = f"exit code {code}; {' '.join(errors)}"
        yield Fault("loss not finite", 1, observed, "" if good else process.output())

    def hosts(self, count: int, victims: tuple[int, ...]) -> Iterator[Fault]:
        """Kill one of several hosts, and stop a run by a signal to one host."""
        # Few steps, because the processes share the cores and wait for each other.
        config = self.config(num_train_steps=40)
        whole = self._whole(config, f"{count}_hosts", count)
        alone = self._whole(config, "one_host")
        observed, problem = _close(alone, whole)
        yield Fault(f"{count} hosts, none lost", 1, observed, problem)
        path = self.folder / f"lost_of_{count}_hosts"
        faults = []
        for victim in victims:
            # The victim takes at most this many steps, and the others wait for it.
            phase, max_steps = self.random.choice(
                (("step", 4), ("evaluation", 9), ("checkpoint", 5))
            )
            hosts = processes.start_hosts(
                config, path, count, _shorten_heartbeat_timeout, max_steps
            )
            watched = hosts[0 if phase == "checkpoint" else victim]
            if not watched.wait_for(phase):
                raise RuntimeError(f"ended before {phase}:\n{watched.output()}")
            delay = self.random.uniform(0, DELAYS_S[phase])
            time.sleep(delay)
            moment = f"{phase} 1 + {delay * 1000:.0f} ms"
            hosts[victim].send(signal.SIGKILL)
            started = time.monotonic()
            codes = _wait_for_all(hosts)
            observed = (
                f"{moment}: exit codes {codes} in {time.monotonic() - started:.1f} s"
            )
            faults.append(Fault(f"{count} hosts, {victim} killed", 1, observed))
            left = [host for host in hosts if host is not hosts[victim]]
            clear = all(_LOST_HOST.search(host.output()) for host in left)
            if {0, preemption.EXIT_CODE} & set(codes) or not clear:
                faults[-1].problem = "\n".join(host.output() for host in hosts)
        hosts = processes.start_hosts(config, path, count, max_steps=4)
        hosts[-1].wait_for("step")
        hosts[-1].send(signal.SIGTERM)
        for host in hosts:
            host.entered.allow(processes.ANY)
        codes = _wait_for_all(hosts)
        faults.append(Fault(f"{count} hosts, SIGTERM to one", 1, f"exit codes {codes}"))
        if set(codes) != {preemption.EXIT_CODE}:
            faults[-1].problem = "\n".join(host.output() for host in hosts)
        _finish(config, path, count)
        problem = processes.difference(whole, path)
        for fault in faults:
            fault.problem = fault.problem or problem
            yield fault


def _disable_compilation_cache():
    jax.config.update("jax_enable_compilation_cache", False)


# Message of the program, or of JAX if it aborts the process.
_LOST_HOST = re.compile("error: host|Terminating process because")


def _shorten_heartbeat_timeout():
    cluster.HEARTBEAT_TIMEOUT_S = 10


def _wait_for_all(hosts: list[Process]) -> list[int]:
    try:
        return [host.wait() for host in hosts]
    finally:
        processes.end_all(hosts)


def _finish(config, path: pathlib.Path, hosts: int = 1):
    """Let a run finish; raise an error with its log if it fails."""
    if hosts > 1:
        started = processes.start_hosts(config, path, hosts)
    else:
        started = [processes.start(config, path)]
    codes = _wait_for_all(started)
    if any(codes):
        logs = "\n".join(process.output()[-3000:] for process in started)
        raise RuntimeError(f"{path} ended with {codes}:\n{logs}")


def _stop_by_signal(config, path: pathlib.Path, steps: int) -> Process:
    process = processes.start(config, path, max_steps=steps + 1)
    process.wait_for("step", steps)
    process.send(signal.SIGTERM)
    process.wait()
    return process


def _close(alone: pathlib.Path, together: pathlib.Path) -> tuple[str, str]:
    """Compare all metrics of a single process with those of several hosts."""
    worst = 0.0
    for one, other in zip(
        processes.metrics(alone), processes.metrics(together), strict=True
    ):
        if one.keys() != other.keys():
            return "", f"logged {sorted(one)} alone and {sorted(other)} together"
        ones, others = (np.array([*x.values()], float) for x in (one, other))
        worst = max(worst, float(np.abs(ones - others).max()))
    observed = f"metrics equal those of one process within {worst:.1e}"
    return observed, "" if worst < 1e-4 else observed
