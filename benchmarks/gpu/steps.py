"""Training steps at the paper's sizes, compared with eager and compiled PyTorch."""

import collections
import copy
import dataclasses
import pathlib
import tempfile
import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import torch

from benchmarks import torch_models
from benchmarks import train_step_cases as cases
from benchmarks.gpu.tables import SIDES
from benchmarks.train_step_cases import Case

# Relative tolerance of the first losses; TF32 has 10 mantissa bits.
TOLERANCES = {"float32": 2e-3, "bfloat16": 2e-2}
TURN_S = 0.4
NUM_KERNELS = 6


def turn(step: Callable[[], Any], count: int) -> float:
    """Return the seconds per step of `count` steps."""
    start = time.perf_counter()
    for _ in range(count):
        loss = step()
    float(loss)  # waits for the last step
    return (time.perf_counter() - start) / count


def measure(case: Case, rounds: int) -> dict[str, Any]:
    """Return times, memory, counts and first losses of the sides of a case.

    A side that fails has an `error` instead.
    """
    torch.backends.cuda.matmul.allow_tf32 = True
    torch.backends.cudnn.allow_tf32 = True  # as in XLA
    torch_model, model, params, inputs = torch_models.make_both(case)
    result: dict[str, Any] = {"case": dataclasses.asdict(case), "name": str(case)}
    makers = {
        "ours": lambda: _ours(model, params, inputs, result),
        "eager": lambda: _theirs(case, copy.deepcopy(torch_model), inputs, False),
        "compile": lambda: _theirs(case, copy.deepcopy(torch_model), inputs, True),
    }
    steps = {}
    for name in SIDES:
        try:
            steps[name], result[name] = makers[name]()
        except Exception as error:  # such as out of memory
            result[name] = {"error": f"{type(error).__name__}: {error}"[:300]}
    losses = [result[name]["first_loss"] for name in steps]
    tolerance = TOLERANCES[case.dtype]
    result["losses_agree"] = bool(np.allclose(losses, losses[:1], rtol=tolerance))
    counts = {
        name: int(np.clip(TURN_S / turn(step, 1), 1, 50))
        for name, step in steps.items()
    }
    seconds = {name: [] for name in steps}
    for _ in range(rounds):
        for name, step in steps.items():
            seconds[name].append(turn(step, counts[name]))
    for name, values in seconds.items():
        result[name] |= {"seconds": float(np.median(values)), "all": values}
    if "ours" in steps:
        result["kernels"] = top_kernels(lambda: turn(steps["ours"], 3))
    return result


def _ours(model, params, inputs, result):
    ours = cases.our_step(model, params, inputs)
    result["flops"], result["bytes"] = ours.flops, ours.bytes_accessed
    first_loss = float(ours.step())
    stats = jax.local_devices()[0].memory_stats() or {}
    return ours.step, {
        "compile_s": ours.compile_s,
        "peak_gb": stats.get("peak_bytes_in_use", float("nan")) / 1e9,
        "first_loss": first_loss,
    }


def _theirs(case, model, inputs, compiled: bool):
    on_gpu = torch.cuda.is_available()
    device = "cuda" if on_gpu else "cpu"
    step = torch_models.training_step(case, model, inputs, device, compiled)
    if on_gpu:
        torch.cuda.reset_peak_memory_stats()
    start = time.perf_counter()
    first_loss = float(step())
    compile_s = time.perf_counter() - start if compiled else 0.0
    peak = torch.cuda.max_memory_allocated() if on_gpu else float("nan")
    found = {"compile_s": compile_s, "peak_gb": peak / 1e9, "first_loss": first_loss}
    return step, found


def top_kernels(run: Callable[[], Any]) -> list[tuple[str, float]]:
    """Return the longest kernels of a call, with their shares of the kernel time."""
    total = collections.Counter()
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder):
            run()
        (path,) = pathlib.Path(folder).rglob("*.xplane.pb")
        for plane in jax.profiler.ProfileData.from_file(str(path)).planes:
            on_gpu = plane.name.startswith("/device:GPU")
            for line in plane.lines:
                if line.name.startswith("Stream" if on_gpu else "tf_XLA"):
                    for event in line.events:
                        # On CPUs, these contain the kernels.
                        if not event.name.startswith("ThunkExecutor"):
                            total[event.name] += event.duration_ns
    everything = max(sum(total.values()), 1)
    return [(name, ns / everything) for name, ns in total.most_common(NUM_KERNELS)]
