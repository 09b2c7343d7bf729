"""The state of a run, read from the files in its folder."""

import datetime
import pathlib
from typing import Any

from rich.console import Console
from rich.progress_bar import ProgressBar
from rich.table import Table

from sanorm_jax.metrics import measures
from sanorm_jax.report import bands
from sanorm_jax.run.folder import workdir as workdir_lib
from sanorm_jax.run.folder import writers


def read(workdir: pathlib.Path) -> dict[str, Any]:
    """Return the state of a run and its last logged values, by name.

    Raises:
      UserError: `workdir` holds no run.
    """
    config = workdir_lib.load_config(workdir)
    lines = workdir_lib.read_lines(workdir / writers.METRICS_FILE)
    starts = workdir_lib.read_lines(workdir / workdir_lib.STARTS_FILE)
    training = [line for line in lines if "loss" in line]
    evaluations = [line for line in lines if "loss" not in line]
    saved = workdir_lib.saved_steps(workdir)
    step = training[-1]["step"] if training else 0
    rate = training[-1].get("time/steps_per_s") if training else None
    left = config.num_train_steps - step
    status = {
        "step": step,
        "num_train_steps": config.num_train_steps,
        "finished": max(saved, default=0) >= config.num_train_steps,
        "steps_per_s": rate,
        "eta": str(datetime.timedelta(seconds=round(left / rate))) if rate else None,
        "wall_time": str(datetime.timedelta(seconds=round(training[-1]["time/wall_s"])))
        if training
        else None,
        "last_checkpoint": max(saved, default=None),
        "restarts": max(len(starts) - 1, 0),
        "running": workdir_lib.is_locked(workdir),
    }
    if training:
        status |= {k: v for k, v in training[-1].items() if not k.startswith("time/")}
    if evaluations:
        last = evaluations[-1]
        status["evaluated_at_step"] = last["step"]
        status |= {k: v for k, v in last.items() if k != "step"}
    return status


def show(workdir: pathlib.Path):
    """Print the state of a run: a progress bar, the loss and the last evaluations."""
    run = read(workdir)
    console = Console(highlight=False)
    step, total = run["step"], run["num_train_steps"]
    state = "finished" if run["finished"] else "not running"
    if run["running"] is None and not run["finished"]:
        state = "perhaps running"
    if run["running"]:
        state = f"running, {run['eta']} left" if run["eta"] else "running"
    bar = ProgressBar(total=total, completed=step, width=40)
    row = Table.grid(padding=(0, 1))
    row.add_row(str(workdir), bar, f"{step} of {total} steps, {state}")
    console.print(row)
    rate = f"{run['steps_per_s']:.1f} steps/s, " if run["steps_per_s"] else ""
    console.print(
        f"{rate}{run['wall_time'] or 'no time'} in training, {run['restarts']} "
        f"restarts, last checkpoint {run['last_checkpoint']}"
    )
    if "loss" in run:
        console.print(f"loss {run['loss']:.4g}")
    settings: dict[str, dict[str, float]] = {}
    for name, value in run.items():
        setting, is_measure, measure = name.partition("/")
        if is_measure and value is not None:
            settings.setdefault(setting, {})[measure] = value
    for setting, values in settings.items():
        at = f"step {run['evaluated_at_step']}, {setting}"
        console.print(f"{at}: {measures.brief(values)}")
    if "loss" in run:
        console.print(bands.compare(workdir).text, soft_wrap=True)
