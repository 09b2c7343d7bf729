"""Inject faults into training runs: `python -m tests.faults`.

Takes 26 minutes on one core. Prints each fault and `N faults, N survived`. The exit
code is 0 if both numbers are equal.
"""

import itertools
import os
import pathlib
import sys
import tempfile
import time
import traceback

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

from absl import app, flags
from rich.console import Console
from rich.markup import escape
from rich.table import Column, Table

from tests.faults import scenarios
from tests.faults.scenarios import Fault

_TASKS = ("dinosaur", "object_discovery", "property_prediction")
_KILLS = flags.DEFINE_integer("kills", 20, "Number of SIGKILLs per task.")
_SEED = flags.DEFINE_integer("seed", 0, "Seed of the random moments.")
_SHORT = flags.DEFINE_bool("short", False, "Only four kills, in a minute.")
_ONLY = flags.DEFINE_list("only", [], "Names of scenarios; all if empty.")


def _list(suite: scenarios.Scenarios, short: bool):
    if short:
        return {"kills of dinosaur": lambda: suite.kills("dinosaur", 4)}
    kills = {
        f"kills of {task}": lambda task=task: suite.kills(task, _KILLS.value)
        for task in _TASKS
    }
    return kills | {
        "signals": suite.signals,
        "second interrupt": suite.second_interrupt,
        "time limit": suite.time_limit,
        "damage": suite.damage,
        "full disk": suite.full_disk,
        "lost store": suite.lost_store,
        "not finite": suite.not_finite,
        "2 hosts": lambda: suite.hosts(2, (0, 1)),
        "4 hosts": lambda: suite.hosts(4, (0, 2)),
    }


def _run(name: str, scenario):
    """Yield the faults of a scenario; an exception counts as a fault not survived."""
    try:
        yield from scenario()
    except Exception:
        yield Fault(name, 1, "the scenario raised an exception", traceback.format_exc())


def _verdict(fault: Fault) -> str:
    return "[red]NOT SURVIVED[/red]" if fault.problem else "survived"


def _table(faults: list[Fault]) -> Table:
    table = Table("fault", Column("times", justify="right"), "observed", "")
    for fault in faults:
        observed = escape(fault.observed)
        table.add_row(escape(fault.name), str(fault.count), observed, _verdict(fault))
    return table


def _main(argv: list[str]) -> int:
    del argv
    console, started = Console(width=150, highlight=False), time.monotonic()
    faults = []
    with tempfile.TemporaryDirectory(prefix="sanorm_faults_") as folder:
        suite = scenarios.Scenarios(pathlib.Path(folder), _SEED.value)
        every = _list(suite, _SHORT.value)
        chosen = {name: every[name] for name in _ONLY.value or every}
        for fault in itertools.chain.from_iterable(
            _run(name, scenario) for name, scenario in chosen.items()
        ):
            faults.append(fault)
            console.print(
                f"{time.monotonic() - started:5.0f} s  {_verdict(fault)}  "
                f"{escape(fault.name)}"
            )
            if fault.problem:
                console.print(escape(fault.problem[-4000:]))
    console.print(_table(faults))
    done = sum(fault.count for fault in faults)
    survived = sum(fault.count for fault in faults if not fault.problem)
    console.print(f"{done} faults, {survived} survived")
    return 0 if done and done == survived else 1


if __name__ == "__main__":
    app.run(_main, argv=sys.argv)
