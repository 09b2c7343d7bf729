"""Damage to files and disks."""

import contextlib
import pathlib
import shutil
import subprocess
from collections.abc import Callable


def _largest(folder: pathlib.Path) -> pathlib.Path:
    files = [p for p in (folder / "state").rglob("*") if p.is_file()]
    return max(files, key=lambda p: p.stat().st_size)


def _flip(folder: pathlib.Path):
    content = bytearray(_largest(folder).read_bytes())
    middle = len(content) // 2
    content[middle : middle + 64] = bytes(64)
    _largest(folder).write_bytes(content)


def _cut(folder: pathlib.Path):
    path = _largest(folder)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 3])


# Each function damages the folder of a checkpoint.
DAMAGES: dict[str, Callable[[pathlib.Path], None]] = {
    "overwritten": _flip,
    "truncated": _cut,
    "without its state": lambda folder: shutil.rmtree(folder / "state"),
    "without its description": lambda folder: (folder / "meta/metadata").unlink(),
}


@contextlib.contextmanager
def small_disk(path: pathlib.Path, size: str = "8M"):
    """Mount a file system of a few MiB."""
    path.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "sanorm_jax", str(path)]
    subprocess.run(mount, check=True, capture_output=True)
    try:
        yield path
    finally:
        subprocess.run(["umount", "--lazy", str(path)], check=True)


def fill(path: pathlib.Path):
    """Fill all remaining space of a disk with a file."""
    with path.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        for size in (65536, 1024, 1):
            with contextlib.suppress(OSError):
                while file.write(bytes(size)):
                    pass


@contextlib.contextmanager
def hidden(store: pathlib.Path):
    """Move a folder away temporarily."""
    store.rename(store.with_name("elsewhere"))
    try:
        yield
    finally:
        store.with_name("elsewhere").rename(store)


@contextlib.contextmanager
def truncated(store: pathlib.Path):
    """Truncate all data files of a folder temporarily."""
    copy = store.with_name("copy")
    shutil.copytree(store, copy)
    for path in store.rglob("*"):
        if path.is_file() and path.name not in ("zarr.json", "manifest.json"):
            path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    try:
        yield
    finally:
        shutil.rmtree(store)
        copy.rename(store)
