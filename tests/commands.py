"""Run commands of the repository as processes."""

import os
import pathlib
import subprocess
import sys

ROOT = pathlib.Path(__file__).parents[1]


def command(module: str, *arguments: object) -> list[str]:
    """Return the command line of `python -m MODULE ARGUMENTS`."""
    return [sys.executable, "-m", module, *map(str, arguments)]


def run(module: str, *arguments: object, **environment: str):
    """Run a command to its end; return the process with its output."""
    return subprocess.run(
        command(module, *arguments),
        cwd=ROOT,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        check=False,
    )
