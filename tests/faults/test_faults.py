"""The short version of `python -m tests.faults`."""

import re
import subprocess
import sys


def test_runs_survive_a_kill_in_every_phase():
    # The command forks, so it needs a process that has not used JAX yet.
    command = [sys.executable, "-m", "tests.faults", "--short"]
    result = subprocess.run(
        command, capture_output=True, text=True, check=False, timeout=1200
    )
    assert result.returncode == 0, result.stdout + result.stderr
    faults, survived = re.search(
        r"(\d+) faults, (\d+) survived", result.stdout
    ).groups()
    assert faults == survived == "4"
