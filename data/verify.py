"""Check every file of a store: `python -m data.verify --store=DIR`.

The exit code is 0 if the store is intact, 1 if files are missing or damaged (each is
listed), and 2 if there is no store.
"""

import concurrent.futures
import dataclasses
import os
import pathlib
from collections.abc import Callable

from absl import flags
from rich.console import Console

from sanorm_jax.core import commands, progress

from . import arrays
from .manifest import PROJECTION, projection_damage
from .store import Store

_STORE = commands.define_path("store", None, "Folder of the store.", required=True)
_REMOVE_DAMAGED = flags.DEFINE_bool(
    "remove_damaged",
    False,
    "Remove damaged shard files; the command that wrote the store then replaces them.",
)


@dataclasses.dataclass(frozen=True)
class Problem:
    """A missing or damaged file of a store.

    Attributes:
      path: Path of the file.
      reason: One-line error message that names the file.
      is_shard: Whether it is a shard file, which the writer of the store can replace.
    """

    path: pathlib.Path
    reason: str
    is_shard: bool = True


def verify(
    store: Store, advance: Callable[[int, str], None] = lambda amount, note: None
) -> list[Problem]:
    """Read every shard of a store.

    All shard files must exist, the checksums of examples and indices must match, arrays
    must agree with the manifest, floats must be finite, and the SHA-256 of the
    projection must be the recorded one.

    Args:
      store: Store opened with `allow_incomplete=True`.
      advance: Function called with the number of files read and a note on their size.

    Returns:
      The problems in the order of split, field and shard; empty if there are none.
    """
    problems, jobs = [], []
    if "projection" in store.settings:
        path = store.root / PROJECTION
        reason = projection_damage(path, store.settings["projection"]["sha256"])
        if reason is not None:
            problems.append(Problem(path, reason, is_shard=False))
    for split in store.splits:
        for field in store.fields:
            reason = store.check_array(split, field)
            if reason is None:
                shards = range(store.num_shards(split))
                jobs += [(split, field, shard) for shard in shards]
            else:
                path = store.root / split / field / arrays.METADATA
                problems.append(Problem(path, reason, is_shard=False))
    read = 0
    # Several threads, so that checksums overlap with reading.
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        reasons = pool.map(lambda job: store.check_shard(*job), jobs)
        for job, reason in zip(jobs, reasons, strict=True):
            path = store.shard_file(*job)
            if reason is not None:
                problems.append(Problem(path, reason))
            if path.exists():
                read += path.stat().st_size
            advance(1, f"{read / 1e9:.2f} GB")
    return problems


def _counts(store: Store) -> str:
    splits = [
        f"{split} {store.num_examples(split)} examples in {store.num_shards(split)} "
        f"{'file' if store.num_shards(split) == 1 else 'files'} per field"
        for split in store.splits
    ]
    return "; ".join(splits)


def _verify() -> int:
    console = Console(highlight=False, soft_wrap=True, markup=False)
    store = Store.open(_STORE.value, allow_incomplete=True)
    console.print(f"{store.root}: {_counts(store)}")
    files = len(store.fields) * sum(store.num_shards(s) for s in store.splits)
    with progress.Progress(f"reading {store.root}", files, "files") as bar:
        problems = verify(store, bar.advance)
    for problem in problems:
        console.print(problem.reason)
    if not problems:
        console.print(f"intact: all {files} files read, none missing or damaged")
        return 0
    missing = sum(not problem.path.exists() for problem in problems)
    console.print(
        f"{missing} files missing, {len(problems) - missing} damaged, of {files}"
    )
    if _REMOVE_DAMAGED.value:
        removed = [p.path for p in problems if p.is_shard and p.path.exists()]
        for path in removed:
            path.unlink()
        console.print(
            f"removed {len(removed)} damaged files; run the command that wrote the "
            "store again to replace them"
        )
    return 1


if __name__ == "__main__":
    commands.main(_verify)
