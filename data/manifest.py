"""The manifest of a store: what it was made from, and what it holds.

A JSON file; its fingerprint tells whether two stores have the same content, and whether
it was changed since it was written.
"""

import hashlib
import json
import os
import pathlib
import socket
from collections.abc import Callable, Mapping
from typing import IO, Any

FORMAT = "sanorm store"
VERSION = 1
MANIFEST = "manifest.json"
# Beside the manifest of projected features: what they were projected by.
PROJECTION = "projection.npz"


class StoreError(Exception):
    """Bad data: one line that names the file or option and the remedy."""


def feature_root(data_dir: pathlib.Path, name: str, encoder: str) -> pathlib.Path:
    """Return the folder of the features that an encoder made of a dataset."""
    return pathlib.Path(data_dir) / f"{name}-{encoder.replace('/', '_')}"


def write_json(path: pathlib.Path, content: Any):
    """Write a JSON file such that a reader sees the old or the new one, whole."""
    _write_beside(path, lambda file: file.write(_encode(content))).replace(path)


def create_manifest(root: pathlib.Path, manifest: Mapping[str, Any]):
    """Write the first manifest of a store; one that another job wrote first stays."""
    create_whole(root / MANIFEST, lambda file: file.write(_encode(manifest)))


def create_whole(path: pathlib.Path, write: Callable[[IO[bytes]], Any]):
    """Write a file that appears whole; one that another job wrote first stays.

    Args:
      path: of the file.
      write: writes the content to a file that is open for it.
    """
    temporary = _write_beside(path, write)
    try:
        # Unlike a renamed file, a link never takes the place of another job's.
        path.hardlink_to(temporary)
    except FileExistsError:
        pass
    except OSError:  # A file system without links.
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def comes_before_manifest(path: pathlib.Path) -> bool:
    """Whether a file may lie in a store that is not begun: what jobs write at first."""
    begun = (f".{MANIFEST}.", f".{PROJECTION}.")
    return path.name == PROJECTION or path.name.startswith(begun)


def _encode(content: Any) -> bytes:
    return (json.dumps(content, indent=2) + "\n").encode()


def _write_beside(
    path: pathlib.Path, write: Callable[[IO[bytes]], Any]
) -> pathlib.Path:
    temporary = path.with_name(f".{path.name}.{socket.gethostname()}.{os.getpid()}")
    with temporary.open("wb") as file:
        write(file)
        file.flush()
        os.fsync(file.fileno())
    return temporary


def file_sha256(path: pathlib.Path) -> str:
    """Return the SHA-256 of a file; OSError if it is unreadable."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def projection_damage(path: pathlib.Path, sha256: str | None) -> str | None:
    """Return what is wrong with the file of a projection, or None.

    Args:
      path: of the file.
      sha256: that it has to have; None if any will do.
    """
    try:
        found = file_sha256(path)
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
        parts += differences(old, new)
    return "; ".join(parts)


def differences(
    old: Mapping[str, Any], new: Mapping[str, Any], prefix: str = ""
) -> list[str]:
    """Return how two mappings differ, field by field, those within by dots."""
    parts = []
    for name in sorted(old.keys() | new.keys()):
        one, two = old.get(name), new.get(name)
        if isinstance(one, Mapping) and isinstance(two, Mapping):
            parts += differences(one, two, f"{prefix}{name}.")
        elif one != two:
            parts.append(f"{prefix}{name}: {one!r} there, {two!r} now")
    return parts


def read_manifest(root: pathlib.Path) -> dict[str, Any]:
    """Return the manifest of a store.

    Raises:
      StoreError: there is no store, or one of another version.
    """
    path = root / MANIFEST
    try:
        manifest = json.loads(path.read_text())
    except (FileNotFoundError, NotADirectoryError):
        raise StoreError(
            f"{root}: no store there; make it with python -m data.prepare (features: "
            "python -m feature_extraction.extract)"
        ) from None
    except (OSError, ValueError) as error:
        raise StoreError(f"{path}: unreadable ({error})") from None
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise StoreError(f"{path}: is no manifest of a {FORMAT}")
    if manifest.get("version") != VERSION:
        raise StoreError(
            f"{path}: is of version {manifest.get('version')}, this code reads "
            f"{VERSION}; write the store again"
        )
    try:
        intact = manifest["fingerprint"] == fingerprint(manifest)
        intact &= manifest["examples_per_shard"] > 0 and "complete" in manifest
    except (KeyError, TypeError):
        intact = False
    if not intact:
        raise StoreError(
            f"{path}: was changed by hand or damaged (its fingerprint does not fit); "
            "restore it or write the store again"
        )
    return manifest
