"""Evaluate a published model anew: `python -m sanorm_jax check shapes/batch_norm`.

The exit code is 0 if the measures of the model's card are met, else 1. Validation data
that is not in `--data_dir` is rendered there, with only the validation split.
"""

import pathlib
import sys

from sanorm_jax.core import commands, published

_DATA_DIR = commands.define_path("data_dir", "datasets", "Folder of the stores.")


def _check(name: pathlib.Path) -> int:
    from sanorm_jax.published import check

    met, table = check.check(published.find(name), _DATA_DIR.value)
    sys.stdout.write(table)
    return 0 if met else 1


if __name__ == "__main__":
    commands.main(_check, arguments=("NAME",))
