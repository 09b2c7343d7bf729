"""Times reading random batches of features, several ways on the same bytes.

    python -m benchmarks.store --folder=/local/disk --gigabytes=2
    python -m benchmarks.store --folder=/local/disk --cold

Batches of 64 frames of [784, 768] float16, in random order. The ways take turns in one
run, with the same examples in the same order:

    pipeline     a training step's input: store, tf.data, up to an array on the device
    store        `Store.read` alone, a batch at a time
    tensorstore  the same files by tensorstore alone, without our gathering
    h5py         one HDF5 dataset, item by item, stacked to a batch
    memory map   one flat file, gathered into one buffer: the ceiling

Cold means that each file's pages were dropped from the page cache before each turn; a
disk, or the host of a virtual machine, may still have them. Needs h5py.
"""

import dataclasses
import gc
import os
import pathlib
import re
import tempfile
import threading
import time
from collections.abc import Callable

import h5py
import jax
import numpy as np
from absl import app, flags
from rich.console import Console
from rich.table import Table

from sanorm_jax.data import arrays, pipeline
from sanorm_jax.data.store import Store, StoreWriter
from sanorm_jax.run.distribution.devices import Devices

_FOLDER = flags.DEFINE_string(
    "folder", None, "Where to write the files that are read, default a temporary one."
)
_GIGABYTES = flags.DEFINE_float("gigabytes", 2.0, "Of each kind of file.", 0.1)
_BATCHES = flags.DEFINE_integer("batches", 20, "Batches of a turn.", 1)
_ROUNDS = flags.DEFINE_integer("rounds", 5, "Turns of each way.", 1)
_BATCH_SIZE = flags.DEFINE_integer("batch_size", 64, "Frames of a batch.", 1)
_COLD = flags.DEFINE_bool("cold", False, "Drop the files' pages before each turn.")

SHAPE = (784, 768)
FRAMES_PER_VIDEO = 24
_ENCODER = "random"

# Reads the batches of these examples, [batches, batch size].
_Way = Callable[[np.ndarray], None]


def write(folder: pathlib.Path, num_videos: int):
    """Write the same random features as a store, an HDF5 file and a flat file."""
    count = num_videos * FRAMES_PER_VIDEO
    common = {"dataset": "random", "source": {}, "splits": {"train": count}}
    common["examples_per_shard"] = FRAMES_PER_VIDEO
    source = StoreWriter.create(
        folder / "random",
        settings={"image_size": 1, "max_objects": 0},
        fields={"num_objects": ((), "int32")},
        **common,
    )
    features = StoreWriter.create(
        folder / f"random-{_ENCODER}",
        settings={"encoder": _ENCODER, "source_fingerprint": source.fingerprint},
        fields={"features": (SHAPE, "float16")},
        **common,
    )
    rng = np.random.default_rng(0)
    with (
        h5py.File(folder / "features.h5", "w") as file,
        (folder / "features.bin").open("wb") as flat,
    ):
        dataset = file.create_dataset("features", (count, *SHAPE), "float16")
        for shard in range(num_videos):
            start, stop = features.shard_range("train", shard)
            # Normal deviates are slow to draw; bytes of finite numbers do.
            bits = rng.integers(0, 1 << 14, (stop - start, *SHAPE), np.uint16)
            values = bits.view(np.float16)
            zeros = np.zeros(stop - start, np.int32)
            source.write_shard("train", shard, {"num_objects": zeros})
            features.write_shard("train", shard, {"features": values})
            dataset[start:stop] = values
            flat.write(values.tobytes())
    source.finish()
    features.finish()
    os.sync()


def _own_bytes() -> int:
    # Without pages of files, which the system can take back.
    rollup = pathlib.Path("/proc/self/smaps_rollup").read_text()
    return 1024 * sum(map(int, re.findall(r"Pss_(?:Anon|Shmem):\s+(\d+) kB", rollup)))


class _Peak:
    """The most memory of its own that the process takes, over what it has now."""

    def __enter__(self):
        gc.collect()
        self._before, self.bytes = _own_bytes(), 0
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()
        return self

    def _watch(self):
        while not self._ended.wait(0.05):
            self.bytes = max(self.bytes, _own_bytes() - self._before)

    def __exit__(self, *exc_info):
        self._ended.set()
        self._thread.join()


def _pipeline(folder: pathlib.Path) -> _Way:
    dataset = pipeline.open_dataset(folder, "random", encoder=_ENCODER)
    devices = Devices("jit")

    def read(examples):
        # Told which examples to take, `train_batches` permutes them.
        batches = pipeline.train_batches(
            dataset,
            "train",
            examples.reshape(-1),
            fields=("features",),
            batch_size=examples.shape[1],
            seed=0,
            start_step=0,
            num_steps=len(examples),
        )
        for batch in devices.prefetch(batches):
            jax.block_until_ready(batch)

    return read


def _store(folder: pathlib.Path) -> _Way:
    store = Store.open(folder / f"random-{_ENCODER}")

    def read(examples):
        for indices in examples:
            store.read("train", "features", indices)

    return read


def _tensorstore(folder: pathlib.Path) -> _Way:
    import tensorstore

    path = folder / f"random-{_ENCODER}/train/features"
    array = tensorstore.open(
        arrays.spec(path), read=True, context=arrays.context()
    ).result()

    def read(examples):
        for indices in examples:
            array[indices].read().result()

    return read


def _h5py(folder: pathlib.Path) -> _Way:
    def read(examples):
        with h5py.File(folder / "features.h5") as file:
            dataset = file["features"]
            for indices in examples:
                np.stack([dataset[i] for i in indices])

    return read


def _memory_map(folder: pathlib.Path) -> _Way:
    buffer = np.empty((_BATCH_SIZE.value, *SHAPE), np.float16)

    def open_map():
        return np.memmap(folder / "features.bin", "float16", "r").reshape(-1, *SHAPE)

    # While a page is mapped it cannot be dropped.
    kept = None if _COLD.value else open_map()

    def read(examples):
        flat = open_map() if kept is None else kept
        for indices in examples:
            # "clip" lets numpy write into the buffer without one of its own.
            np.take(flat, indices, 0, out=buffer, mode="clip")

    return read


WAYS = {
    "pipeline": _pipeline,
    "store": _store,
    "tensorstore": _tensorstore,
    "h5py": _h5py,
    "memory map": _memory_map,
}


def _drop_pages(folder: pathlib.Path):
    for path in folder.rglob("*"):
        if path.is_file():
            with path.open("rb") as file:
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


@dataclasses.dataclass
class Result:
    """What was measured of one way to read: a value a turn, and the peak memory."""

    rates: list[float] = dataclasses.field(default_factory=list)  # bytes/s
    cpu: list[float] = dataclasses.field(default_factory=list)  # s/byte, all threads
    peak: int = 0  # bytes


def measure(folder: pathlib.Path) -> dict[str, Result]:
    """Return what was measured of each way to read."""
    count = Store.open(folder / "random").num_examples("train")
    results = {name: Result() for name in WAYS}
    rng = np.random.default_rng(1)
    ways = {name: make(folder) for name, make in WAYS.items()}
    shape = (_BATCHES.value, _BATCH_SIZE.value)
    for turn in range(-1, _ROUNDS.value):
        examples = rng.integers(0, count, shape)
        for name, read in ways.items():
            if _COLD.value:
                _drop_pages(folder)
            if turn < 0:  # Warms up, and is watched, which takes time.
                with _Peak() as peak:
                    read(examples)
                results[name].peak = peak.bytes
                continue
            start, cpu_start = time.perf_counter(), time.process_time()
            read(examples)
            seconds = time.perf_counter() - start
            num_bytes = examples.size * 2 * np.prod(SHAPE)
            results[name].rates.append(num_bytes / seconds)
            results[name].cpu.append((time.process_time() - cpu_start) / num_bytes)
    return results


def main(argv):
    """Write the files, measures and prints a table."""
    if len(argv) > 1:
        raise app.UsageError(f"unknown argument {argv[1]}; flags are --name=value")
    bytes_per_video = FRAMES_PER_VIDEO * 2 * int(np.prod(SHAPE))
    num_videos = max(1, round(_GIGABYTES.value * 1e9 / bytes_per_video))
    with tempfile.TemporaryDirectory(dir=_FOLDER.value) as name:
        folder = pathlib.Path(name)
        write(folder, num_videos)
        results = measure(folder)
    batch = _BATCH_SIZE.value * bytes_per_video / FRAMES_PER_VIDEO
    ceiling = np.median(results["memory map"].rates)
    table = Table(
        title=f"{'cold' if _COLD.value else 'warm'}, batches of {batch / 1e6:.0f} MB "
        f"of {num_videos * bytes_per_video / 1e9:.1f} GB, {_ROUNDS.value} turns of "
        f"{_BATCHES.value} batches each, {len(os.sched_getaffinity(0))} cores"
    )
    table.add_column("way")
    for column in ("GB/s, median", "least", "most", "of the map", "CPU s/GB"):
        table.add_column(column, justify="right")
    table.add_column("memory, batches", justify="right")
    for name, result in results.items():
        table.add_row(
            name,
            *(f"{f(result.rates) / 1e9:.2f}" for f in (np.median, np.min, np.max)),
            f"{np.median(result.rates) / ceiling:.0%}",
            f"{np.median(result.cpu) * 1e9:.2f}",
            f"{result.peak / batch:.1f}",
        )
    console = Console(width=100, highlight=False)
    console.print(table)
    bound = pipeline.PARALLEL_READS + pipeline.PREFETCHED + 3
    console.print(
        f"The pipeline holds at most {bound} batches: {pipeline.PARALLEL_READS} being "
        f"read, {pipeline.PREFETCHED} waiting, the one in use, and two that take its "
        "place."
    )


if __name__ == "__main__":
    app.run(main)
