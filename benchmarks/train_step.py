"""Time training steps against plain PyTorch, alternating in one process.

    python -m benchmarks.train_step --cases=paper
    python -m benchmarks.train_step --cases=growth --repeats=3
    taskset -c 0 python -m benchmarks.train_step --cpu_time

A step is a forward pass, a backward pass and an Adam update in float32 on random
inputs. Both sides start from the same weights and must compute the same loss. Memory is
the increase of the process's peak during one step. A matrix product and a pass over
memory, timed between the steps, measure the rates of the machine. A second table shows
the time that the operations and bytes of a step would take at these rates. On a shared
machine, compare CPU time on one core (last command), because threads that wait for each
other distort elapsed time. Needs PyTorch.
"""

import ctypes
import gc
import os
import pathlib
import re
import time
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import torch
from absl import flags

from benchmarks import tables, torch_models
from benchmarks import train_step_cases as cases
from benchmarks.train_step_cases import Case
from sanorm_jax.core import commands

_CASES = flags.DEFINE_enum("cases", "paper", list(cases.CASES), "Cases to time.")
_TASKS = flags.DEFINE_list("tasks", [c.task for c in cases.PAPER], "Models to time.")
_REPEATS = flags.DEFINE_integer("repeats", 5, "Timed steps per side.", 1)
_CPU_TIME = flags.DEFINE_bool("cpu_time", False, "Report CPU time, not elapsed time.")

MATMUL_SIZE = 2048
STREAM_BYTES = 2**28


def machine_rates() -> dict[str, Callable[[], float]]:
    """Return functions of one matrix product and of one pass over memory."""
    matrix = jnp.ones((MATMUL_SIZE, MATMUL_SIZE))
    array = jnp.ones(STREAM_BYTES // 8)  # half is read, half written
    multiply = jax.jit(jnp.matmul).lower(matrix, matrix).compile()
    negate = jax.jit(jnp.negative).lower(array).compile()
    return {
        "matmul": lambda: multiply(matrix, matrix).block_until_ready(),
        "stream": lambda: negate(array).block_until_ready(),
    }


def peak_rise(run: Callable[[], float]) -> float:
    """Return the rise of the process's peak memory during a call, in GB."""
    gc.collect()
    # Exclude free memory that malloc holds.
    ctypes.CDLL(None).malloc_trim(0)
    pathlib.Path("/proc/self/clear_refs").write_text("5")
    before = _status_gb("VmRSS")
    run()
    return _status_gb("VmHWM") - before


def _status_gb(field: str) -> float:
    status = pathlib.Path("/proc/self/status").read_text()
    return int(re.search(rf"{field}:\s+(\d+) kB", status)[1]) * 1024 / 1e9


def measure(case: Case, repeats: int) -> dict[str, float]:
    """Return median seconds, peak memory in GB, counts, and seconds to compile.

    Raises:
      RuntimeError: The losses of the two sides differ.
    """
    torch_model, model, params, inputs = torch_models.make_both(case)
    ours = cases.our_step(model, params, inputs)
    theirs = torch_models.training_step(case, torch_model, inputs)
    sides = {"ours": lambda: float(ours.step()), "torch": lambda: float(theirs())}
    # The first step is a warm-up.
    check_losses(case, [run() for run in sides.values()], 1e-4)
    everything = sides | machine_rates()
    everything["matmul"](), everything["stream"]()
    clock = time.process_time if _CPU_TIME.value else time.perf_counter
    seconds = {name: [] for name in everything}
    losses = {}
    for _ in range(repeats):
        for name, run in everything.items():
            start = clock()
            losses[name] = run()
            seconds[name].append(clock() - start)
    # After several steps, gradients and updates must have agreed as well.
    check_losses(case, [losses[name] for name in sides], 1e-3)
    result = {name: float(np.median(values)) for name, values in seconds.items()}
    result |= {f"{name}_gb": peak_rise(run) for name, run in sides.items()}
    return result | {
        "compile": ours.compile_s,
        "flops": ours.flops,
        "bytes": ours.bytes_accessed,
    }


def check_losses(case: Case, losses: list[float], tolerance: float):
    """Raise `RuntimeError` unless the sides computed the same loss."""
    if not np.allclose(losses, losses[0], rtol=tolerance):
        raise RuntimeError(f"{case}: losses differ: {losses}")


def times_row(case: Case, m: dict[str, float]) -> list[str]:
    """Return a row of the table of times."""
    return [
        str(case),
        f"{m['ours']:.3f}",
        f"{m['torch']:.3f}",
        f"{m['torch'] / m['ours']:.2f}",
        *(f"{m[key]:.2f}" for key in ("ours_gb", "torch_gb", "compile")),
    ]


def bounds_row(case: Case, m: dict[str, float]) -> list[str]:
    """Return a row of the table of counts and measured rates."""
    flops_per_s = 2 * MATMUL_SIZE**3 / m["matmul"]
    bytes_per_s = STREAM_BYTES / m["stream"]
    products, passes = m["flops"] / flops_per_s, m["bytes"] / bytes_per_s
    return [
        str(case),
        f"{m['flops'] / 1e9:.0f}",
        f"{flops_per_s / 1e9:.0f}",
        f"{products / m['ours']:.2f}",
        f"{m['bytes'] / 1e9:.1f}",
        f"{bytes_per_s / 1e9:.1f}",
        f"{passes / m['ours']:.2f}",
    ]


def main():
    """Print the tables."""
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    times = tables.make(
        f"Median of {_REPEATS.value} training steps, float32",
        *("case", "sanorm_jax, s", "torch, s", "torch/sanorm_jax"),
        *("sanorm_jax, GB", "torch, GB", "compile, s"),
    )
    bounds = tables.make(
        "Time of the step's operations and bytes at the measured rates, as a share of "
        "the step time",
        *("case", "GFLOP", "GFLOP/s", "share", "GB", "GB/s", "share"),
    )
    for case in cases.CASES[_CASES.value]:
        if case.task in _TASKS.value:
            m = measure(case, _REPEATS.value)
            times.add_row(*times_row(case, m))
            bounds.add_row(*bounds_row(case, m))
    tables.show(times, bounds)


if __name__ == "__main__":
    commands.main(main)
