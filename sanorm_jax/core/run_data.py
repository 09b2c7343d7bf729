"""Record of the data that a run was trained on, in the run's folder.

New images for the run are prepared accordingly: at the same size, with features of the
same encoder and settings.
"""

import json
import pathlib
from collections.abc import Mapping
from typing import Any

from sanorm_jax.core import files, published
from sanorm_jax.core.errors import UserError

FILE = "data.json"
# Projection of the features, in their store and, as a copy, in the run's folder.
PROJECTION = "projection.npz"

# Settings that do not change the features of an image.
_NOT_COMPARED = ("source_fingerprint", "timm")


def write(
    workdir: pathlib.Path,
    image_size: int,
    features: Mapping[str, Any] | None,
    projection: pathlib.Path | None = None,
    fields: Mapping[str, Any] | None = None,
):
    """Write the record and a copy of the projection, if there is one.

    `features` are the settings of the feature store; None if the run reads images.
    `fields` has the shape and dtype of each field of an example.

    Raises:
      UserError: The projection is unreadable.
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
    record = {"image_size": image_size, "features": features, "fields": fields}
    files.write(workdir / FILE, files.to_json(record))


def read(workdir: pathlib.Path) -> dict[str, Any]:
    """Return the record's `image_size`, `features` and `fields`.

    Raises:
      UserError: The record is missing or unreadable.
    """
    path = workdir / FILE
    try:
        record = json.loads(path.read_text())
        return {name: record[name] for name in ("image_size", "features", "fields")}
    except (FileNotFoundError, NotADirectoryError):
        raise UserError(
            f"{path}: missing; pass the folder of a run that has started training, "
            + published.suggestion()
        ) from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path}: unreadable ({error}); restore it") from None


def check_features(recorded: Mapping[str, Any], new: Mapping[str, Any], where: str):
    """Raise `UserError` if features have other settings than those of the run.

    `where` is the option or folder of the new features, for the error message.
    """
    recorded, new = (
        {name: value for name, value in settings.items() if name not in _NOT_COMPARED}
        for settings in (recorded, new)
    )
    if parts := files.differences(recorded, new):
        raise UserError(
            f"{where}: not the features that the run was trained on "
            f"({'; '.join(parts)}); extract them with --like=WORKDIR of the run"
        )


def check_projection(workdir: pathlib.Path, features: Mapping[str, Any] | None):
    """Raise `UserError` if features are projected differently from those of a run.

    Nothing is checked if `workdir` contains no record. `features` are the settings of
    their store; None if images are read.
    """
    if not (workdir / FILE).exists():
        return
    old, new = (
        {"projection": (settings or {}).get("projection")}
        for settings in (read(workdir)["features"], features)
    )
    if parts := files.differences(old, new):
        raise UserError(
            f"{workdir}: was trained on features with another projection "
            f"({'; '.join(parts)}); set config.data_dir to the folder of those features"
        )
