"""The manifest of a store: a JSON file that records its origin and its content.

The fingerprint of a manifest shows whether two stores have the same content, and
whether the manifest was changed after it was written.
"""

import hashlib
import json
import pathlib
from collections.abc import Mapping
from typing import Any

from sanorm_jax.core import files, run_data
from sanorm_jax.core.errors import UserError

FORMAT = "sanorm store"
VERSION = 1
MANIFEST = "manifest.json"
# Projection matrix of projected features, stored next to the manifest.
PROJECTION = run_data.PROJECTION


def feature_root(data_dir: pathlib.Path, name: str, encoder: str) -> pathlib.Path:
    """Return the folder of a dataset's features from an encoder."""
    return pathlib.Path(data_dir) / f"{name}-{encoder.replace('/', '_')}"


def comes_before_manifest(path: pathlib.Path) -> bool:
    """Return whether a job may write this file before the manifest exists."""
    temporary = (f".{MANIFEST}.", f".{PROJECTION}.")
    return path.name == PROJECTION or path.name.startswith(temporary)


def projection_damage(path: pathlib.Path, sha256: str | None) -> str | None:
    """Return an error message about the file of a projection, or None.

    If `sha256` is None, any content is accepted.
    """
    try:
        found = files.sha256(path)
    except OSError as error:
        return (
            f"{path}: unreadable ({error.strerror}); new images cannot be projected "
            "without it: restore it, or remove the folder and extract again"
        )
    if sha256 not in (None, found):
        return (
            f"{path}: damaged or from another store (SHA-256 differs from the recorded "
            "one); restore it, or remove the folder and extract again"
        )
    return None


def fingerprint(manifest: Mapping[str, Any]) -> str:
    """Return the SHA-256 of the manifest entries that define the content."""
    keys = ("format", "version", "dataset", "source", "settings", "fields", "splits")
    content = {key: manifest[key] for key in keys}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def difference(recorded: Mapping[str, Any], given: Mapping[str, Any]) -> str:
    """Return the differences of two manifests in one line; empty if they agree."""
    old, new = ({"dataset": manifest["dataset"]} for manifest in (recorded, given))
    parts = files.differences(old, new)
    for key in ("source", "settings", "fields", "splits"):
        parts += files.differences(recorded[key], given[key])
    return "; ".join(parts)


def read_manifest(root: pathlib.Path) -> dict[str, Any]:
    """Return the manifest of a store.

    Raises:
      UserError: The store is missing, damaged or of another version.
    """
    path = root / MANIFEST
    try:
        manifest = json.loads(path.read_text())
    except (FileNotFoundError, NotADirectoryError):
        raise UserError(
            f"{root}: not a store; create it with python -m data.prepare (features: "
            "python -m feature_extraction.extract)"
        ) from None
    except (OSError, ValueError) as error:
        raise UserError(
            f"{path}: unreadable ({error}); restore it or write the store again"
        ) from None
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise UserError(
            f"{path}: not the manifest of a {FORMAT}; choose another folder"
        )
    if manifest.get("version") != VERSION:
        raise UserError(
            f"{path}: version {manifest.get('version')} is not supported (expected "
            f"{VERSION}); write the store again"
        )
    try:
        intact = manifest["fingerprint"] == fingerprint(manifest)
        intact &= manifest["examples_per_shard"] > 0 and "complete" in manifest
    except (KeyError, TypeError):
        intact = False
    if not intact:
        raise UserError(
            f"{path}: edited or damaged (its fingerprint does not match); restore it "
            "or write the store again"
        )
    return manifest
