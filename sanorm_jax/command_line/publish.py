"""Publish a finished run: `python -m sanorm_jax publish RUN --name=shapes/batch_norm`.

The model goes to the folder of published models in the package, or to `--output`.
"""

import pathlib
import re

from absl import flags, logging

from sanorm_jax.core import commands, published
from sanorm_jax.core.errors import UserError

_NAME = flags.DEFINE_string(
    "name", None, "Name of the model, such as shapes/batch_norm.", required=True
)
_CONFIG_FILE = flags.DEFINE_string(
    "config_file",
    None,
    "Config of the run, such as configs/shapes.py, for the card.",
    required=True,
)
_LICENSE = flags.DEFINE_string(
    "license", None, "License of the training data, for the card.", required=True
)
_OTHERS = flags.DEFINE_list(
    "others", [], "Runs of other seeds, for mean and standard deviation in the card."
)
_OUTPUT = commands.define_path(
    "output", None, "Folder of the published models; that of the package if unset."
)


def _publish(workdir: pathlib.Path):
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", _NAME.value):
        raise UserError(
            f"--name={_NAME.value}: is not DATA/MODEL; choose one like "
            "shapes/batch_norm"
        )
    from sanorm_jax.published import publish

    folder = (_OUTPUT.value or published.FOLDER) / _NAME.value
    publish.publish(
        workdir,
        folder,
        config_file=_CONFIG_FILE.value,
        license=_LICENSE.value,
        others=[commands.expand(run) for run in _OTHERS.value],
    )
    logging.info("written: %s", folder)


if __name__ == "__main__":
    commands.main(_publish, arguments=("RUN",))
