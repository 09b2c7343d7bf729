"""Time random reads of feature batches with several readers of the same data.

    python -m benchmarks.store --folder=/local/disk --gigabytes=2
    python -m benchmarks.store --folder=/local/disk --cold

The batches are 64 frames of `[784, 768]` float16 in random order. The readers take
turns in one process and read the same examples:

    pipeline     input of a training step: store, tf.data and the copy to the device
    store        `Store.read` alone
    tensorstore  the files of the store, read by TensorStore alone
    h5py         one HDF5 dataset, read per example and stacked
    memory map   one flat file, gathered into one buffer: the upper bound

With `--cold`, all pages are dropped from the page cache before each turn; the disk or
the host of a virtual machine may still cache them. Needs h5py.
"""

import dataclasses
import gc
import os
import pathlib
import re
import sys
import tempfile
import threading
import time
from collections.abc import Callable

import h5py
import jax
import numpy as np
import tensorstore
from absl import flags

from benchmarks import tables
from sanorm_jax.core import commands
from sanorm_jax.data import arrays, pipeline
from sanorm_jax.data.store import Store, StoreWriter
from sanorm_jax.run.distribution.devices import Devices

_FOLDER = commands.define_path(
    "folder", None, "Folder of the test files; temporary if unset."
)
_GIGABYTES = flags.DEFINE_float("gigabytes", 2.0, "Size of each format.", 0.1)
_BATCHES = flags.DEFINE_integer("batches", 20, "Batches per turn.", 1)
_ROUNDS = flags.DEFINE_integer("rounds", 5, "Turns per reader.", 1)
_COLD = flags.DEFINE_bool("cold", False, "Drop cached pages before each turn.")

BATCH_SIZE = 64
SHAPE = (784, 768)
FRAMES_PER_VIDEO = 24
_ENCODER = "random"

# Function that reads the examples `[batches, batch size]`.
_Reader = Callable[[np.ndarray], None]


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
            # Random bits of finite numbers, which are faster to draw than normals.
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
    # Excludes mapped files, whose pages the system can reclaim.
    rollup = pathlib.Path("/proc/self/smaps_rollup").read_text()
    return 1024 * sum(map(int, re.findall(r"Pss_(?:Anon|Shmem):\s+(\d+) kB", rollup)))


class _Peak:
    """Context that measures the peak rise of the memory of the process."""

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


def _pipeline(folder: pathlib.Path) -> _Reader:
    dataset = pipeline.open_dataset(folder, "random", encoder=_ENCODER)
    devices = Devices("jit")

    def read(examples):
        # `train_batches` permutes the given examples.
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


def _store(folder: pathlib.Path) -> _Reader:
    store = Store.open(folder / f"random-{_ENCODER}")

    def read(examples):
        for indices in examples:
            store.read("train", "features", indices)

    return read


def _tensorstore(folder: pathlib.Path) -> _Reader:
    path = folder / f"random-{_ENCODER}/train/features"
    array = tensorstore.open(
        arrays.spec(path), read=True, context=arrays.context()
    ).result()

    def read(examples):
        for indices in examples:
            array[indices].read().result()

    return read


def _h5py(folder: pathlib.Path) -> _Reader:
    def read(examples):
        with h5py.File(folder / "features.h5") as file:
            dataset = file["features"]
            for indices in examples:
                np.stack([dataset[i] for i in indices])

    return read


def _memory_map(folder: pathlib.Path) -> _Reader:
    buffer = np.empty((BATCH_SIZE, *SHAPE), np.float16)

    def open_map():
        return np.memmap(folder / "features.bin", "float16", "r").reshape(-1, *SHAPE)

    # Mapped pages cannot be dropped.
    kept = None if _COLD.value else open_map()

    def read(examples):
        flat = open_map() if kept is None else kept
        for indices in examples:
            # "clip" avoids a temporary buffer in NumPy.
            np.take(flat, indices, 0, out=buffer, mode="clip")

    return read


READERS = {
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
    """Measurements of a reader: one value per turn, and the peak memory."""

    rates: list[float] = dataclasses.field(default_factory=list)  # bytes/s
    cpu: list[float] = dataclasses.field(default_factory=list)  # s/byte, all threads
    peak: int = 0  # bytes


def measure(folder: pathlib.Path) -> dict[str, Result]:
    """Return the measurements of each reader."""
    count = Store.open(folder / "random").num_examples("train")
    results = {name: Result() for name in READERS}
    rng = np.random.default_rng(1)
    readers = {name: make(folder) for name, make in READERS.items()}
    shape = (_BATCHES.value, BATCH_SIZE)
    for turn in range(-1, _ROUNDS.value):
        examples = rng.integers(0, count, shape)
        for name, read in readers.items():
            if _COLD.value:
                _drop_pages(folder)
            if turn < 0:  # The warm-up also measures memory, which takes time.
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


def main():
    """Print the table."""
    bytes_per_video = FRAMES_PER_VIDEO * 2 * int(np.prod(SHAPE))
    num_videos = max(1, round(_GIGABYTES.value * 1e9 / bytes_per_video))
    with tempfile.TemporaryDirectory(dir=_FOLDER.value) as name:
        folder = pathlib.Path(name)
        write(folder, num_videos)
        results = measure(folder)
    batch = BATCH_SIZE * bytes_per_video / FRAMES_PER_VIDEO
    ceiling = np.median(results["memory map"].rates)
    table = tables.make(
        f"{'cold' if _COLD.value else 'warm'}, batches of {batch / 1e6:.0f} MB "
        f"of {num_videos * bytes_per_video / 1e9:.1f} GB, {_ROUNDS.value} turns of "
        f"{_BATCHES.value} batches each, {len(os.sched_getaffinity(0))} cores",
        *("reader", "GB/s, median", "minimum", "maximum", "of the map", "CPU s/GB"),
        "memory, batches",
    )
    for name, result in results.items():
        table.add_row(
            name,
            *(f"{f(result.rates) / 1e9:.2f}" for f in (np.median, np.min, np.max)),
            f"{np.median(result.rates) / ceiling:.0%}",
            f"{np.median(result.cpu) * 1e9:.2f}",
            f"{result.peak / batch:.1f}",
        )
    tables.show(table)
    bound = pipeline.PARALLEL_READS + pipeline.PREFETCHED + 3
    sys.stdout.write(
        f"The pipeline holds at most {bound} batches: {pipeline.PARALLEL_READS} being "
        f"read, {pipeline.PREFETCHED} queued, one in use, and two being copied.\n"
    )


if __name__ == "__main__":
    commands.main(main)
