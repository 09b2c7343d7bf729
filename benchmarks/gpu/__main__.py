"""Check and time training on the local accelerator.

    python -m benchmarks.gpu --out=gpu.json
    python -m benchmarks.gpu --parts=card,step_dinosaur_float32 --minutes=4

Each part runs in its own process. Parts that fail or exceed the time limit do not
affect the others, and are listed in the last table. The JSON file is updated after each
part. Parts without timing run concurrently. `--size=small` is a trial on a CPU. Needs
PyTorch and the vectors in `tests/`, but not TensorFlow.
"""

import concurrent.futures
import functools
import json
import os
import pathlib
import signal
import subprocess
import sys
import tempfile
import time
from typing import Any

from absl import flags

from benchmarks.gpu import parts
from benchmarks.gpu.tables import make
from benchmarks.tables import show
from sanorm_jax.core import commands, files
from sanorm_jax.core.errors import UserError
from sanorm_jax.tasks.base import MATMUL_PRECISIONS

_OUT = commands.define_path("out", "gpu.json", "JSON file of the results.")
_MINUTES = flags.DEFINE_float("minutes", 8.0, "Time limit; later parts are stopped.")
_SIZE = flags.DEFINE_enum("size", "paper", list(parts.SIZES), "Sizes of the parts.")

# Parts without timing, which run concurrently.
PARITIES = {
    f"parity_{precision}": functools.partial(parts.parity, precision=precision)
    for precision in MATMUL_PRECISIONS
}
TOGETHER = {"parallel": parts.parallel, **PARITIES}
STEPS = {
    f"step_{task}_{dtype}" + ("_remat" if remat else ""): functools.partial(
        parts.training_step, task=task, dtype=dtype, remat=remat
    )
    for remat in (False, True)
    for dtype in ("float32", "bfloat16")
    for task in parts.SIZES["paper"].steps
    if task == "dinosaur" or not remat
}
ALONE = {
    "card": parts.card,
    "matching": parts.matching,
    "reading": parts.reading,
    "scores": parts.scores,
    **STEPS,
}
PARTS = TOGETHER | ALONE

_PARTS = flags.DEFINE_list("parts", list(PARTS), f"Parts to run: {', '.join(PARTS)}")
_PART = flags.DEFINE_enum("run_part", None, list(PARTS), "Part to run in this process.")

_NO_TIME = "no time left, see --minutes"


def run_part(name: str, deadline: float) -> dict[str, Any]:
    """Run a part in its own process; return `result` or `error`, and `seconds`."""
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        out, log = pathlib.Path(folder, "out.json"), pathlib.Path(folder, "log.txt")
        command = [sys.executable, "-m", "benchmarks.gpu", f"--run_part={name}"]
        command += [f"--size={_SIZE.value}", f"--out={out}"]
        # PyTorch and other parts need GPU memory as well.
        environment = os.environ | {"XLA_PYTHON_CLIENT_PREALLOCATE": "false"}
        with log.open("wb") as file:
            process = subprocess.Popen(
                command,
                stdout=file,
                stderr=file,
                start_new_session=True,
                env=environment,
            )
        try:
            code = process.wait(max(deadline - started, 0.0))
        except subprocess.TimeoutExpired:
            # Compilers of PyTorch run in processes of their own.
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            outcome = {"error": _NO_TIME}
        else:
            lines = log.read_text(errors="replace").strip().splitlines()
            last = lines[-1][:300] if lines else "no output"
            outcome = {"error": f"exit code {code}: {last}"}
            if code == 0:
                outcome = {"result": json.loads(out.read_text())}
    return outcome | {"seconds": time.monotonic() - started}


def run(names: list[str], deadline: float) -> dict[str, dict[str, Any]]:
    """Run parts, those without timing first; return their results by name."""
    together = [name for name in names if name in TOGETHER]
    groups = [together, *([name] for name in names if name in ALONE)]
    results: dict[str, dict[str, Any]] = {}
    for group in filter(None, groups):
        if time.monotonic() >= deadline:
            results |= {name: {"error": _NO_TIME} for name in group}
            continue
        with concurrent.futures.ThreadPoolExecutor(len(group)) as pool:
            outcomes = pool.map(lambda name: run_part(name, deadline), group)
            results |= zip(group, outcomes, strict=True)
        content = {"size": _SIZE.value, "parts": results}
        files.write(_OUT.value, files.to_json(content))
    return results


def main() -> int:
    """Run the parts and print their tables; exit with 1 if one failed."""
    if _PART.value:
        found = PARTS[_PART.value](parts.SIZES[_SIZE.value])
        files.write(_OUT.value, json.dumps(found))
        return 0
    unknown = [name for name in _PARTS.value if name not in PARTS]
    if unknown:
        raise UserError(f"--parts: no {unknown[0]}; choose from {', '.join(PARTS)}")
    results = run(_PARTS.value, time.monotonic() + 60 * _MINUTES.value)
    show(*make(results))
    return int(any("error" in found for found in results.values()))


if __name__ == "__main__":
    commands.main(main)
