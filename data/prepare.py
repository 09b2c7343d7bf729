"""Write a dataset to a store: `python -m data.prepare --dataset=shapes`.

Options that begin with "Scenes:" apply to the datasets shapes, blocks and tabletop.
"""

import collections
import concurrent.futures
import dataclasses
import functools
import importlib
import itertools
import multiprocessing
import os
import pathlib
import re
import shutil
import signal
import threading
from collections.abc import Iterator
from concurrent.futures.process import BrokenProcessPool

import numpy as np
from absl import flags, logging

from sanorm_jax.core import commands, console, progress, run_data
from sanorm_jax.core.errors import UserError

from . import sources
from .sources import files
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


def _by_split(
    option: str, values: list[str] | None, pattern: str, form: str
) -> dict[str, tuple[int, ...]] | None:
    """Parse the values of an option, each a split and numbers that match `pattern`."""
    if values is None:
        return None
    numbers = {}
    for value in values:
        found = re.fullmatch(rf"(\w+):{pattern}", value)
        if not found:
            raise UserError(f"--{option}={value}: not {form}")
        split, *rest = found.groups()
        if split in numbers:
            raise UserError(f"--{option}={value}: {split} is given twice; remove one")
        numbers[split] = tuple(map(int, rest))
    return numbers


def _stack(examples: Iterator[Example], count: int) -> Example:
    """Return the columns of the next examples."""
    rows = list(itertools.islice(examples, count))
    if len(rows) < count:
        raise UserError(
            "--source: fewer examples than expected; ask for fewer with --splits"
        )
    return {name: np.stack([row[name] for row in rows]) for name in rows[0]}


def _start_worker():
    # The parent handles interrupts; workers exit when the parent is killed.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_exit_with_parent, daemon=True).start()


def _exit_with_parent():
    multiprocessing.parent_process().join()
    os._exit(1)


def _render_shard(source: Source, split: str, start: int, stop: int) -> Example:
    examples = (source.example(split, i) for i in range(start, stop))
    return _stack(examples, stop - start)


def _render(source, writer, jobs, num_workers, write):
    """Render shards in several processes, with a bounded queue for the writer."""
    # Spawned, not forked: a fork would copy the locks of TensorStore's threads.
    context = multiprocessing.get_context("spawn")
    pool = concurrent.futures.ProcessPoolExecutor(
        min(num_workers, len(jobs)), mp_context=context, initializer=_start_worker
    )
    waiting = collections.deque()

    def write_next():
        job, future = waiting.popleft()
        write(*job, future.result())

    try:
        for job in jobs:
            if len(waiting) >= 2 * num_workers:
                write_next()
            split, _ = job
            future = pool.submit(
                _render_shard, source, split, *writer.shard_range(*job)
            )
            waiting.append((job, future))
        while waiting:
            write_next()
    except BrokenProcessPool:
        raise UserError(
            f"{writer.root}: a worker process was killed, perhaps out of memory; run "
            "the command again with fewer --num_workers (finished shards are kept)"
        ) from None
    finally:
        pool.shutdown(cancel_futures=True)


def _load(source, writer, jobs, write):
    """Load the examples of shards in several threads."""
    for split, shard in jobs:
        start, stop = writer.shard_range(split, shard)
        load = functools.partial(source.load, split)
        examples = files.load_all(load, range(start, stop))
        write(split, shard, _stack(examples, stop - start))


def _stream(source, writer, write):
    """Stream each split from its first to its last missing shard."""
    for split in writer.splits:
        missing = writer.missing_shards(split)
        if not missing:
            continue
        first, _ = writer.shard_range(split, missing[0])
        examples = source.examples(split, first)
        for shard in range(missing[0], missing[-1] + 1):
            start, stop = writer.shard_range(split, shard)
            columns = _stack(examples, stop - start)
            if shard in missing:
                write(split, shard, columns)


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
        dataset=dataset,
        source=source.source,
        settings=source.settings,
        fields=source.fields,
        splits=source.splits,
        examples_per_shard=source.examples_per_shard,
    )
    if writer.finish():
        logging.info("already complete: %s", root)
        return root
    jobs = [(s, i) for s in writer.splits for i in writer.missing_shards(s)]
    ranges = [writer.shard_range(*job) for job in jobs]
    total = sum(stop - start for start, stop in ranges)

    def write(split, shard, columns):
        writer.write_shard(split, shard, columns)
        start, stop = writer.shard_range(split, shard)
        bar.advance(stop - start)

    try:
        if source.begin:
            source.begin()
        with progress.Progress(f"writing {root}", total, "examples") as bar:
            if source.example:
                _render(source, writer, jobs, num_workers or os.cpu_count(), write)
            elif source.load:
                _load(source, writer, jobs, write)
            else:
                _stream(source, writer, write)
    except UserError as error:
        # A damaged source never yields a complete store, so remove the partial one,
        # except for shards made from intact files of their own.
        kept = source.file_an_example or not isinstance(error, SourceError)
        num_shards = sum(map(writer.num_shards, writer.splits))
        num_missing = sum(len(writer.missing_shards(s)) for s in writer.splits)
        if is_new and not (kept and num_missing < num_shards):
            shutil.rmtree(root)
        raise
    writer.finish()
    logging.info("complete: %s", root)
    return root


def _prepare() -> int:
    sizes = _by_split(
        "splits",
        _SPLITS.value,
        r"0*([1-9]\d*)",
        "name:count; write it like train:20",
    )
    objects = _by_split(
        "objects",
        _OBJECTS.value,
        r"(\d+)-(\d+)",
        "split:minimum-maximum; write it like train:3-6",
    )
    options = _OPTIONS(
        splits=sizes and {name: count for name, (count,) in sizes.items()},
        objects=objects,
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
