"""Atomic files, and comparison of their contents."""

import contextlib
import hashlib
import json
import os
import pathlib
import socket
from collections.abc import Callable, Iterator, Mapping
from typing import IO, Any

# Content of a file: its bytes, its text, or a function that writes to the open file.
Content = bytes | str | Callable[[IO[bytes]], Any]


@contextlib.contextmanager
def _temporary_file(path: pathlib.Path, content: Content) -> Iterator[pathlib.Path]:
    """Yield a temporary file with the content, in the folder of `path`."""
    temporary = path.with_name(f".{path.name}.{socket.gethostname()}.{os.getpid()}")
    try:
        with temporary.open("wb") as file:
            if callable(content):
                content(file)
            else:
                file.write(content.encode() if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
        yield temporary
    except OSError as error:
        # The error for a full disk does not name the file.
        raise OSError(error.errno, error.strerror, str(path)) from None
    finally:
        temporary.unlink(missing_ok=True)


def write(path: pathlib.Path, content: Content):
    """Write a file atomically: a reader sees the old or the new content."""
    with _temporary_file(path, content) as temporary:
        temporary.replace(path)


def create(path: pathlib.Path, content: Content):
    """Create a file atomically unless it exists; the first of several writers wins."""
    with _temporary_file(path, content) as temporary:
        try:
            # Unlike a rename, a hard link never replaces the file of another writer.
            path.hardlink_to(temporary)
        except FileExistsError:
            pass
        except OSError:  # The file system has no hard links.
            temporary.replace(path)


def to_json(content: Any) -> str:
    """Return the text of a JSON file."""
    return json.dumps(content, indent=2) + "\n"


def sha256(path: pathlib.Path) -> str:
    """Return the SHA-256 of a file.

    Raises:
      OSError: The file is unreadable.
    """
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def flatten(mapping: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return the leaves of nested mappings, by dotted name."""
    flat = {}
    for name, value in mapping.items():
        if isinstance(value, Mapping):
            flat.update(flatten(value, f"{prefix}{name}."))
        else:
            flat[prefix + name] = value
    return flat


def differences(
    old: Mapping[str, Any], new: Mapping[str, Any], prefix: str = ""
) -> list[str]:
    """Return one line for each differing leaf of two nested mappings."""
    parts = []
    for name in sorted(old.keys() | new.keys()):
        one, two = old.get(name), new.get(name)
        if isinstance(one, Mapping) and isinstance(two, Mapping):
            parts += differences(one, two, f"{prefix}{name}.")
        elif one != two:
            parts.append(f"{prefix}{name}: {one!r} recorded, {two!r} now")
    return parts
