"""The manifest of a store: what it was made from, and what it holds.

A JSON file; its fingerprint tells whether two stores have the same content, and whether
it was changed since it was written.
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
# Beside the manifest of projected features: what they were projected by.
PROJECTION = run_data.PROJECTION


def feature_root(data_dir: pathlib.Path, name: str, encoder: str) -> pathlib.Path:
    """Return the folder of the features that an encoder made of a dataset."""
    return pathlib.Path(data_dir) / f"{name}-{encoder.replace('/', '_')}"


def create_manifest(root: pathlib.Path, manifest: Mapping[str, Any]):
    """Write the first manifest of a store; one that another job wrote first stays."""
    files.create(root / MANIFEST, files.to_json(manifest))


def comes_before_manifest(path: pathlib.Path) -> bool:
    """Whether a file may lie in a store that is not begun: what jobs write at first."""
    begun = (f".{MANIFEST}.", f".{PROJECTION}.")
    return path.name == PROJECTION or path.name.startswith(begun)


def projection_damage(path: pathlib.Path, sha256: str | None) -> str | None:
    """Return what is wrong with the file of a projection, or None.

    Args:
      path: of the file.
      sha256: that it has to have; None if any will do.
    """
    try:
        found = files.sha256(path)
    except OSError as error:
        return (
            f"{path}: unreadable ({error.strerror}); nothing can be projected alike "
            "without it: restore it, or remove the folder and extract again"
        )
    if sha256 not in (None, found):
        return (
            f"{path}: damaged, or of another store (its SHA-256 is not the one noted); "
            "restore it, or remove the folder and extract again"
        )
    return None


def fingerprint(manifest: Mapping[str, Any]) -> str:
    """Return the SHA-256 of all in a manifest that defines the content."""
    keys = ("format", "version", "dataset", "source", "settings", "fields", "splits")
    content = {key: manifest[key] for key in keys}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def difference(recorded: Mapping[str, Any], given: Mapping[str, Any]) -> str:
    """Return in one line how two manifests differ; empty if they agree."""
    parts = []
    for key in ("dataset", "source", "settings", "fields", "splits"):
        old, new = recorded.get(key), given.get(key)
        if not (isinstance(old, Mapping) and isinstance(new, Mapping)):
            old, new = {key: old}, {key: new}
        parts += files.differences(old, new)
    return "; ".join(parts)


def read_manifest(root: pathlib.Path) -> dict[str, Any]:
    """Return the manifest of a store.

    Raises:
      UserError: there is no store, or one of another version.
    """
    path = root / MANIFEST
    try:
        manifest = json.loads(path.read_text())
    except (FileNotFoundError, NotADirectoryError):
        raise UserError(
            f"{root}: no store there; make it with python -m data.prepare (features: "
            "python -m feature_extraction.extract)"
        ) from None
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: unreadable ({error})") from None
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise UserError(f"{path}: is no manifest of a {FORMAT}")
    if manifest.get("version") != VERSION:
        raise UserError(
            f"{path}: is of version {manifest.get('version')}, this code reads "
            f"{VERSION}; write the store again"
        )
    try:
        intact = manifest["fingerprint"] == fingerprint(manifest)
        intact &= manifest["examples_per_shard"] > 0 and "complete" in manifest
    except (KeyError, TypeError):
        intact = False
    if not intact:
        raise UserError(
            f"{path}: was changed by hand or damaged (its fingerprint does not fit); "
            "restore it or write the store again"
        )
    return manifest
