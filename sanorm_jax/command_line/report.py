"""Write the report of an evaluated run: `python -m sanorm_jax report --workdir=RUN`."""

import sys

from sanorm_jax.core import commands

_WORKDIR = commands.define_path("workdir", None, "Folder of the run.", required=True)


def _report():
    from sanorm_jax.report import run_report

    sys.stdout.write(f"{run_report.write(_WORKDIR.value)}\n")


if __name__ == "__main__":
    commands.main(_report)
