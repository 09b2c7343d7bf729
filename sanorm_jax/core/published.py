"""Published models: trained runs that come with the package, found by name.

A published model is a read-only folder `<data>/<name>` with the config of a run, the
record of its data, its weights in place of checkpoints, and a card.
"""

import json
import os
import pathlib
from typing import Any

from sanorm_jax.core import files
from sanorm_jax.core.errors import UserError

# Folder of the models in the package.
FOLDER = pathlib.Path(__file__).parents[1] / "published"
CARD = "card.json"
WEIGHTS = "weights.safetensors"


def names() -> list[str]:
    """Return the names of the packaged models, such as `shapes/batch_norm`."""
    cards = FOLDER.glob(f"*/*/{CARD}")
    return sorted(card.parent.relative_to(FOLDER).as_posix() for card in cards)


def find(path: str | os.PathLike) -> pathlib.Path:
    """Return `path` or, if it does not exist, the folder of the packaged model."""
    path = pathlib.Path(path)
    if not path.exists() and is_published(FOLDER / path):
        return FOLDER / path
    return path


def is_published(folder: pathlib.Path) -> bool:
    """Return whether a folder holds a published model, which is never written to."""
    return (folder / CARD).is_file()


def results_folder(workdir: pathlib.Path) -> pathlib.Path:
    """Return the folder for results of a run.

    It is the run's own or, for a published model, `experiments/published/<name>`.
    """
    if is_published(workdir):
        data, name = workdir.absolute().parts[-2:]
        return pathlib.Path("experiments", "published", data, name)
    return workdir


def suggestion() -> str:
    """Return the end of an error message for a run that does not exist."""
    return f"or use a published model: {', '.join(names())}"


def read_card(folder: pathlib.Path) -> dict[str, Any]:
    """Return the card of a published model.

    Raises:
      UserError: There is none, or it is damaged.
    """
    path = folder / CARD
    try:
        card = json.loads(path.read_text())
        if not {"measures", "sha256", "step"} <= card.keys():
            raise ValueError("fields are missing")
    except (FileNotFoundError, NotADirectoryError):
        raise UserError(
            f"{folder}: is not a published model; use one of {', '.join(names())}"
        ) from None
    except (ValueError, AttributeError) as error:
        raise UserError(
            f"{path}: is damaged ({error}); install the package again"
        ) from None
    return card


def weights(folder: pathlib.Path) -> pathlib.Path:
    """Return the file of a model's weights, after a check of its hash.

    Raises:
      UserError: The file is missing, or not the one that the card describes.
    """
    path, card = folder / WEIGHTS, read_card(folder)
    try:
        found = files.sha256(path)
    except OSError as error:
        raise UserError(
            f"{path}: unreadable ({error.strerror}), but {CARD} describes it; install "
            "the package again"
        ) from None
    if found != card["sha256"]:
        raise UserError(
            f"{path}: is not the file that {CARD} describes (SHA-256 {found[:12]}..., "
            f"not {card['sha256'][:12]}...); install the package again"
        )
    return path
