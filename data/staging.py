"""Copies of stores on node-local disk: verified, shared by processes, cleaned up.

A staged store lies in `<stage_dir>/sanorm_staged/<name>-<fingerprint>/`. Who reads it
holds a shared lock on its `.lock`, which ends with the process, however that ends.
What nobody reads is removed: when a process ends, and whenever one begins, since one
that was killed could not.
"""

import atexit
import concurrent.futures
import contextlib
import fcntl
import pathlib
import shutil
from collections.abc import Iterable, Iterator
from typing import IO

from absl import logging

from . import arrays, progress
from .locks import LocksUnsupportedError, try_lock
from .manifest import MANIFEST, PROJECTION, StoreError, write_json
from .store import Store

FOLDER = "sanorm_staged"
# Copies under way; a network file system answers each slowly, many at once well.
_AT_ONCE = 8
# What files take of a disk beyond their bytes: a last block each.
_BLOCK = 4096

_PARTIAL = ".partial"
_LOCK = ".lock"

# The open locks of what this process reads, with the folder that the copy lies in.
_in_use: list[tuple[IO, pathlib.Path]] = []


def stage(store: Store, stage_dir: str | pathlib.Path, splits: Iterable[str]) -> Store:
    """Returns the store as read from a copy of some of its splits.

    Only one process copies into a `stage_dir` at a time; others wait, and then use
    what it copied. A file is in place once its checksums were read from the copy; a
    copy that nobody used meanwhile is read again before it is trusted.

    Args:
      store: to copy from, as opened; of an incomplete one, what there is.
      stage_dir: folder on a local disk; the copy is removed when the last process
        that uses it ends. Where the file system has no locks, a warning is logged and
        the store itself returned.
      splits: to copy; those that the store does not have are left out.

    Raises:
      StoreError: too little room, not writable, or the store is damaged.
    """
    base = pathlib.Path(stage_dir) / FOLDER
    root = base / f"{store.root.name}-{store.fingerprint[:16]}"
    splits = [split for split in store.splits if split in set(splits)]
    try:
        base.mkdir(parents=True, exist_ok=True)
        try:
            with _locked(base):
                for left in _remove_unused(base, keep=root):
                    logging.info("removed %s, which nobody used any more", left)
                return _fill(store, root, splits)
        except BaseException:
            _remove_unused_at_end(base)
            raise
    except LocksUnsupportedError as error:
        # Without locks nobody knows what others use: nothing is copied or removed.
        logging.warning(
            "config.stage_dir=%s: the file system has no locks (%s); reading from %s, "
            "give a folder on a local disk",
            stage_dir,
            error.strerror,
            store.root,
        )
        return store
    except OSError as error:
        raise StoreError(
            f"config.stage_dir={stage_dir}: {store.root} cannot be copied there "
            f"({error.strerror or error}); choose another folder, or none to read "
            "from config.data_dir"
        ) from None


def _fill(store: Store, root: pathlib.Path, splits: list[str]) -> Store:
    staged = Store(root, store.manifest, splits)
    files = [
        (split, field, shard)
        for split in splits
        for field in store.fields
        for shard in range(store.num_shards(split))
        if store.shard_file(split, field, shard).exists()
    ]
    _check_room(store, staged, files)
    root.mkdir(exist_ok=True)
    users = (root / _LOCK).open("a+")
    _in_use.append((users, root.parent))
    alone = try_lock(users)
    fcntl.flock(users, fcntl.LOCK_SH)
    _copy_metadata(store, staged, splits)
    if alone:
        _remove_damaged(staged, files)
    missing = [file for file in files if not staged.shard_file(*file).exists()]
    _copy(store, staged, missing)
    return staged


def _check_room(store: Store, staged: Store, files: list[tuple[str, str, int]]):
    needed = 0
    for file in files:
        if not staged.shard_file(*file).exists():
            needed += store.shard_file(*file).stat().st_size + _BLOCK
    free = shutil.disk_usage(staged.root.parent).free
    if needed > free:
        raise StoreError(
            f"config.stage_dir={staged.root.parents[1]}: {store.root} needs "
            f"{needed / 1e9:.2f} GB more there, {free / 1e9:.2f} GB are free; choose "
            "another folder, or none to read from config.data_dir"
        )


def _copy_metadata(store: Store, staged: Store, splits: list[str]):
    shutil.rmtree(staged.root / _PARTIAL, ignore_errors=True)
    for root in (staged.root, staged.root / _PARTIAL):
        for split in splits:
            for field in store.fields:
                source, target = (
                    place / split / field / arrays.METADATA
                    for place in (store.root, root)
                )
                # Without examples, in an incomplete store, there is none.
                if source.exists():
                    target.parent.mkdir(parents=True, exist_ok=True)
                    target.write_bytes(source.read_bytes())
    if (store.root / PROJECTION).exists():
        shutil.copyfile(store.root / PROJECTION, staged.root / PROJECTION)
    write_json(staged.root / MANIFEST, store.manifest)


def _remove_damaged(staged: Store, files: list[tuple[str, str, int]]):
    """Reads what an earlier process left, and removes what is not whole."""
    found = [file for file in files if staged.shard_file(*file).exists()]
    if not found:
        return
    with (
        progress.Progress(f"checking {staged.root}", len(found), "files") as bar,
        concurrent.futures.ThreadPoolExecutor(_AT_ONCE) as pool,
    ):
        reasons = pool.map(lambda file: staged.check_shard(*file), found)
        for file, reason in zip(found, reasons, strict=True):
            if reason:
                logging.warning("%s", reason)
                staged.shard_file(*file).unlink()
            bar.advance(1)


def _copy(store: Store, staged: Store, files: list[tuple[str, str, int]]):
    if not files:
        return
    partial = Store(staged.root / _PARTIAL, store.manifest, staged.splits)
    copied = 0

    def copy(file):
        source, target = store.shard_file(*file), partial.shard_file(*file)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, target)
        if partial.check_shard(*file):
            # Named as what it is a copy of, unless only the copy is bad.
            reason = store.check_shard(*file)
            raise StoreError(reason or partial.check_shard(*file))
        size = target.stat().st_size
        final = staged.shard_file(*file)
        final.parent.mkdir(parents=True, exist_ok=True)
        target.replace(final)
        return size

    with (
        progress.Progress(f"staging {store.root}", len(files), "files") as bar,
        concurrent.futures.ThreadPoolExecutor(_AT_ONCE) as pool,
    ):
        try:
            for size in pool.map(copy, files):
                copied += size
                bar.advance(1, f"{copied / 1e9:.2f} GB")
        finally:
            pool.shutdown(cancel_futures=True)
    shutil.rmtree(partial.root, ignore_errors=True)
    logging.info(
        "staged %s at %s: %d files, %.2f GB",
        *(store.root, staged.root, len(files), copied / 1e9),
    )


@contextlib.contextmanager
def _locked(base: pathlib.Path) -> Iterator[None]:
    """Holds the one lock of all staging in a folder."""
    with (base / _LOCK).open("a+") as lock:
        if not try_lock(lock):
            logging.info("waiting for another process that stages in %s", base)
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _remove_unused(
    base: pathlib.Path, keep: pathlib.Path | None = None
) -> list[pathlib.Path]:
    """Removes the staged stores that no process reads, while the folder is locked."""
    removed = []
    for root in base.iterdir():
        if root == keep or not root.is_dir():
            continue
        with (root / _LOCK).open("a+") as users:
            if try_lock(users):
                shutil.rmtree(root, ignore_errors=True)
                removed.append(root)
    return removed


def _remove_unused_at_end(base: pathlib.Path):
    # If another process stages now, it removes this at its own end.
    with contextlib.suppress(OSError), (base / _LOCK).open("a+") as lock:
        if try_lock(lock):
            _remove_unused(base)


@atexit.register
def release():
    """Gives up what this process staged; what nobody else uses is removed.

    Runs at the end of the process by itself.
    """
    while _in_use:
        users, base = _in_use.pop()
        users.close()
        _remove_unused_at_end(base)
