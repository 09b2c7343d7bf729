"""Write a dataset to a store: `python -m data.prepare --dataset=shapes`.

Options that begin with "Scenes:" apply to the datasets shapes, blocks and tabletop.
"""

import concurrent.futures
import dataclasses
import importlib
import multiprocessing
import os
import pathlib
import re
import shutil
import signal
import threading
from collections.abc import Iterable, Iterator
from concurrent.futures.process import BrokenProcessPool

import numpy as np
from absl import flags, logging

from sanorm_jax.core import commands, console, progress, run_data
from sanorm_jax.core.errors import UserError

from . import sources
from .sources.base import Example, Options, Source, SourceError
from .store import StoreWriter

_DATASET = flags.DEFINE_string("dataset", None, "Name of the dataset.", required=True)
_DATA_DIR = commands.define_path("data_dir", "datasets", "Folder of the stores.")
_NAME = flags.DEFINE_string("name", None, "Name of the store; the dataset's if unset.")
_OPTIONS = commands.define_options(Options)
_SPLITS = flags.DEFINE_list(
    "splits", None, "Examples by split, such as train:20,validation:5,test:5."
)
_OBJECTS = flags.DEFINE_list(
    "objects", None, "Scenes: range of objects by split, such as train:3-6,test:7-10."
)
_LIKE = commands.define_run("like", "Run or published model: use its image size.")
_NUM_WORKERS = flags.DEFINE_integer(
    "num_workers", None, "Number of processes; one per core if unset."
)


def _split_sizes(values: list[str] | None) -> dict[str, int] | None:
    if values is None:
        return None
    sizes = {}
    for value in values:
        name, _, count = value.partition(":")
        if not name or not count.isdigit() or int(count) <= 0:
            raise UserError(f"--splits={value}: not name:count; write it like train:20")
        if name in sizes:
            raise UserError(f"--splits={value}: {name} is given twice; remove one")
        sizes[name] = int(count)
    return sizes


def _object_ranges(values: list[str] | None) -> dict[str, tuple[int, int]] | None:
    if values is None:
        return None
    ranges = {}
    for value in values:
        found = re.fullmatch(r"(\w+):(\d+)-(\d+)", value)
        if not found:
            raise UserError(
                f"--objects={value}: not split:minimum-maximum; write it like train:3-6"
            )
        if found[1] in ranges:
            raise UserError(f"--objects={value}: {found[1]} given twice; remove one")
        ranges[found[1]] = int(found[2]), int(found[3])
    return ranges


def _batches(examples: Iterable[Example], sizes: Iterable[int]) -> Iterator[Example]:
    """Yield examples stacked into shards of `sizes`."""
    examples = iter(examples)
    for size in sizes:
        rows = [example for _, example in zip(range(size), examples, strict=False)]
        if len(rows) < size:
            raise UserError(
                "--source: fewer examples than expected; ask for fewer with --splits"
            )
        yield {name: np.stack([row[name] for row in rows]) for name in rows[0]}


def _start_worker():
    # The parent handles interrupts; workers exit when the parent is killed.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_exit_with_parent, daemon=True).start()


def _exit_with_parent():
    multiprocessing.parent_process().join()
    os._exit(1)


def _render_shard(source: Source, split: str, start: int, stop: int) -> Example:
    examples = (source.example(split, i) for i in range(start, stop))
    return next(_batches(examples, [stop - start]))


def _write_parallel(source, writer, advance, num_workers):
    """Render shards in several processes, with a bounded queue for the writer."""
    # Spawned, not forked: a fork would copy the locks of TensorStore's threads.
    context = multiprocessing.get_context("spawn")
    jobs = [
        (split, shard)
        for split in writer.splits
        for shard in writer.missing_shards(split)
    ]
    pool = concurrent.futures.ProcessPoolExecutor(
        min(num_workers, max(len(jobs), 1)),
        mp_context=context,
        initializer=_start_worker,
    )
    waiting = {}
    try:
        for split, shard in jobs:
            if len(waiting) >= 2 * num_workers:
                _collect(waiting, writer, advance)
            future = pool.submit(
                _render_shard, source, split, *writer.shard_range(split, shard)
            )
            waiting[future] = (split, shard)
        while waiting:
            _collect(waiting, writer, advance)
    except BrokenProcessPool:
        raise UserError(
            f"{writer.root}: a worker process was killed, perhaps out of memory; run "
            "the command again with fewer --num_workers (finished shards are kept)"
        ) from None
    finally:
        pool.shutdown(cancel_futures=True)


def _count(columns: Example) -> int:
    return len(next(iter(columns.values())))


def _collect(waiting, writer, advance):
    done, _ = concurrent.futures.wait(
        waiting, return_when=concurrent.futures.FIRST_COMPLETED
    )
    for future in done:
        split, shard = waiting.pop(future)
        columns = future.result()
        writer.write_shard(split, shard, columns)
        advance(_count(columns))


def _write_in_order(source, writer, advance):
    """Stream each split from its first to its last missing shard."""
    for split in writer.splits:
        missing = writer.missing_shards(split)
        if not missing:
            continue
        shards = range(missing[0], missing[-1] + 1)
        ranges = [writer.shard_range(split, shard) for shard in shards]
        examples = source.examples(split, ranges[0][0])
        columns = _batches(examples, [stop - start for start, stop in ranges])
        for shard, rows in zip(shards, columns, strict=True):
            if shard in missing:
                writer.write_shard(split, shard, rows)
                advance(_count(rows))


def prepare(
    dataset: str,
    options: Options,
    *,
    name: str | None = None,
    num_workers: int | None = None,
) -> pathlib.Path:
    """Write the missing shards of a dataset to `<data_dir>/<name>`.

    Args:
      dataset: Key of `sources.SOURCES`.
      options: Options of the source.
      name: Name of the store; the dataset's if None.
      num_workers: Number of processes that render; the number of cores if None.

    Returns:
      The folder of the store.

    Raises:
      UserError: The dataset is unknown, an option is invalid, the disk is full, or the
        store exists with other settings.
      SourceError: The source is damaged. A new, partial store is removed.
    """
    if dataset not in sources.SOURCES:
        raise UserError(
            f"--dataset={dataset}: unknown; choose from {', '.join(sources.SOURCES)}"
        )
    options = dataclasses.replace(options, dataset=dataset)
    source = importlib.import_module(sources.SOURCES[dataset], sources.__name__).build(
        options
    )
    if num_workers is not None and num_workers < 1:
        raise UserError(f"--num_workers={num_workers}: not positive; choose at least 1")
    root = options.data_dir / (name or dataset)
    is_new = not root.exists()
    writer = StoreWriter.create(
        root,
        dataset=source.dataset,
        source=source.source,
        settings=source.settings,
        fields=source.fields,
        splits=source.splits,
        examples_per_shard=source.examples_per_shard,
    )
    if writer.finish():
        logging.info("already complete: %s", root)
        return root
    if source.begin:
        try:
            source.begin()
        except UserError:
            if is_new:
                shutil.rmtree(root)
            raise
    missing = sum(
        stop - start
        for split in writer.splits
        for shard in writer.missing_shards(split)
        for start, stop in [writer.shard_range(split, shard)]
    )
    try:
        with progress.Progress(f"writing {root}", missing, "examples") as bar:
            if source.example is not None:
                workers = num_workers or os.cpu_count()
                _write_parallel(source, writer, bar.advance, workers)
            else:
                _write_in_order(source, writer, bar.advance)
    except SourceError:
        # A damaged source never yields a complete store, so remove the partial one.
        if is_new and not (source.file_an_example and _has_shards(writer)):
            shutil.rmtree(root)
        raise
    writer.finish()
    logging.info("complete: %s", root)
    return root


def _has_shards(writer: StoreWriter) -> bool:
    """Return whether any shard is finished and would be expensive to lose."""
    return any(
        len(writer.missing_shards(split)) < writer.num_shards(split)
        for split in writer.splits
    )


def _prepare() -> int:
    options = _OPTIONS(
        splits=_split_sizes(_SPLITS.value),
        objects=_object_ranges(_OBJECTS.value),
        data_dir=_DATA_DIR.value,
    )
    if _LIKE.value is not None:
        if options.image_size is not None:
            raise UserError("--image_size: also set by --like; remove one of the two")
        image_size = run_data.read(_LIKE.value)["image_size"]
        options = dataclasses.replace(options, image_size=image_size)
    name, num_workers = _NAME.value, _NUM_WORKERS.value
    try:
        prepare(_DATASET.value, options, name=name, num_workers=num_workers)
    except KeyboardInterrupt:
        console.CONSOLE.print(
            "interrupted; finished shards are kept, run the same command to resume"
        )
        return 130
    return 0


if __name__ == "__main__":
    commands.main(_prepare)
