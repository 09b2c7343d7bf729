"""List the published models with their measures: `python -m sanorm_jax models`."""

import sys

from sanorm_jax.core import commands
from sanorm_jax.published import table


def _models():
    sys.stdout.write(table.models())


if __name__ == "__main__":
    commands.main(_models)
