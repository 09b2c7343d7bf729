"""What data a run was trained on, noted in its folder.

By it, other images are made to fit the run: of the same size, with features of the same
encoder under the same settings.
"""

import json
import pathlib
from collections.abc import Mapping
from typing import Any

from sanorm_jax.core import files
from sanorm_jax.core.errors import UserError

FILE = "data.json"
# File of the features' projection, in their store and, as a copy, in the run's folder.
PROJECTION = "projection.npz"

# What does not change the features: which images they are of, and the version of the
# library that computed them.
_NOT_COMPARED = ("source_fingerprint", "timm")


def note(
    workdir: pathlib.Path,
    image_size: int,
    features: Mapping[str, Any] | None,
    projection: pathlib.Path | None = None,
    fields: Mapping[str, Any] | None = None,
):
    """Write `data.json` in the folder of a run, and a copy of the projection's file.

    Args:
      workdir: folder of the run.
      image_size: side of the images in pixels.
      features: settings of the feature store; None if the run reads images.
      projection: file of the features' projection; None if they have none.
      fields: shape and dtype of an example's fields, by name.

    Raises:
      UserError: the projection's file is missing.
    """
    if projection is not None and not (workdir / PROJECTION).exists():
        try:
            content = projection.read_bytes()
        except OSError as error:
            raise UserError(
                f"{projection}: unreadable ({error.strerror}); restore it, or extract "
                "the features again"
            ) from None
        files.create(workdir / PROJECTION, content)
    noted = {"image_size": image_size, "features": features, "fields": fields}
    files.write(workdir / FILE, files.to_json(noted))


def read(workdir: pathlib.Path) -> dict[str, Any]:
    """Return `image_size`, `features` and `fields` as noted.

    Raises:
      UserError: there is no such note.
    """
    path = workdir / FILE
    try:
        noted = json.loads(path.read_text())
        return {
            "image_size": noted["image_size"],
            "features": noted["features"],
            "fields": noted["fields"],
        }
    except (FileNotFoundError, NotADirectoryError):
        raise UserError(
            f"{path}: not there; {workdir} must be the folder of a run that has begun"
        ) from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path}: unreadable ({error})") from None


def check_features(noted: Mapping[str, Any], given: Mapping[str, Any], where: str):
    """Raise `UserError` if features are made otherwise than those noted.

    Args:
      noted: settings of the features that a run was trained on.
      given: settings of other features.
      where: these, for the error.
    """
    noted, given = (
        {name: value for name, value in settings.items() if name not in _NOT_COMPARED}
        for settings in (noted, given)
    )
    parts = files.differences(noted, given)
    if parts:
        raise UserError(
            f"{where}: not the features that the run was trained on "
            f"({'; '.join(parts)}); extract them with --like=WORKDIR of the run"
        )


def check_projection(workdir: pathlib.Path, features: Mapping[str, Any] | None):
    """Raise `UserError` if features are projected otherwise than those of a run.

    Args:
      workdir: folder of the run; without a note of its data nothing is checked.
      features: settings of the feature store; None if images are read.
    """
    if not (workdir / FILE).exists():
        return
    noted = read(workdir)["features"]
    old, new = ((settings or {}).get("projection") for settings in (noted, features))
    parts = files.differences({"projection": old}, {"projection": new})
    if parts:
        raise UserError(
            f"{workdir}: was trained on features projected otherwise "
            f"({'; '.join(parts)}); "
            "point config.data_dir to those features"
        )
