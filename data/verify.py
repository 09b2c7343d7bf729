"""Reads a whole store and lists what is wrong: `python -m data.verify --store=DIR`.

Exit code 0 if the store is whole, 1 if a file is missing or damaged (each is listed),
2 if there is no store to read.
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
    "Remove damaged shard files, so that the command that wrote the store mends it.",
)


@dataclasses.dataclass(frozen=True)
class Problem:
    """A file of a store that cannot be trusted.

    Attributes:
      path: the file.
      reason: what is wrong, in one line that names the file.
      is_shard: whether it is a shard file, which the writer of the store can mend.
    """

    path: pathlib.Path
    reason: str
    is_shard: bool = True


def verify(
    store: Store, advance: Callable[[int, str], None] = lambda amount, note: None
) -> list[Problem]:
    """Read every shard of a store.

    Checks that all shard files are there, that the checksum of each example and of
    each file's index holds, that arrays are what the manifest says, that floats are
    finite, and that the file of a projection is the one noted.

    Args:
      store: opened with `allow_incomplete=True`.
      advance: called with the number of files read and a note on the bytes.

    Returns:
      the problems by split, field and shard; empty if the store is whole.
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
    # Some shards at once: one is checksummed while another is read.
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
        f"{'file' if store.num_shards(split) == 1 else 'files'} a field"
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
        console.print(f"whole: all {files} files read, none missing or damaged")
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
            "store again to mend it"
        )
    return 1


if __name__ == "__main__":
    commands.main(_verify)
