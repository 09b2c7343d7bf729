"""Record the bands of runs: `python -m sanorm_jax bands --workdir=FOLDER`."""

import sys

from sanorm_jax.core import commands
from sanorm_jax.report import bands

_WORKDIR = commands.define_path(
    "workdir", None, "Folder of the runs, such as that of a study.", required=True
)
_OUTPUT = commands.define_path(
    "output", None, "File to write; default NAME OF THE FOLDER.json with the others."
)


def _record():
    workdir = _WORKDIR.value
    output = _OUTPUT.value or bands.FOLDER / f"{workdir.resolve().name}.json"
    bands.record(workdir, output)
    sys.stdout.write(f"{output}\n")


if __name__ == "__main__":
    commands.main(_record)
