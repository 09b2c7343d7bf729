"""Show the progress of a run: `python -m sanorm_jax status --workdir=RUN`."""

from sanorm_jax.core import commands
from sanorm_jax.report import status

_WORKDIR = commands.define_path("workdir", None, "Folder of the run.", required=True)

if __name__ == "__main__":
    commands.main(lambda: status.show(_WORKDIR.value))
