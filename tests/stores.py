"""Small stores of random content, and their files."""

import pathlib
from collections.abc import Callable
from typing import Any

import numpy as np

from sanorm_jax.data import pipeline
from sanorm_jax.data.store import StoreWriter

MAX_OBJECTS = 10


def columns(rng: np.random.Generator, count: int, size: int) -> dict[str, np.ndarray]:
    """Return random columns of the standard fields, each `[count, ...]`."""
    M = MAX_OBJECTS
    num_objects = rng.integers(1, M + 1, count).astype(np.int32)
    real = np.arange(M) < num_objects[:, None]
    kinds = {
        name: np.where(real, rng.integers(0, n, (count, M)), -1).astype(np.int8)
        for name, n in (("shape", 3), ("size", 2), ("material", 2), ("color", 8))
    }
    labels = rng.integers(0, num_objects[:, None, None] + 1, (count, size, size))
    return kinds | {
        "image": rng.integers(0, 256, (count, size, size, 3)).astype(np.uint8),
        "segmentation": labels.astype(np.uint8),
        "num_objects": num_objects,
        "position": rng.uniform(-3, 3, (count, M, 3)).astype(np.float32),
        "visibility": real.astype(np.float32),
        "pixel_coords": rng.uniform(0, size, (count, M, 3)).astype(np.float32),
    }


def write(
    root: pathlib.Path,
    make: Callable[[np.random.Generator, int], dict[str, np.ndarray]],
    splits: dict[str, int],
    per_shard: int = 8,
    **manifest: Any,
) -> StoreWriter:
    """Write a store of random content, or its missing shards.

    Args:
      root: Folder of the store.
      make: Function that returns the columns of a number of examples.
      splits: Number of examples by split.
      per_shard: Number of examples per shard.
      **manifest: Other entries of the manifest.
    """
    fields = {
        name: (column.shape[1:], column.dtype.name)
        for name, column in make(np.random.default_rng(0), 1).items()
    }
    defaults = {"dataset": "random", "source": {}, "settings": {}, "fields": fields}
    arguments = defaults | {"examples_per_shard": per_shard, "splits": splits}
    writer = StoreWriter.create(root, **arguments | manifest)
    for number, split in enumerate(writer.splits):
        for shard in writer.missing_shards(split):
            start, stop = writer.shard_range(split, shard)
            rng = np.random.default_rng([number, shard])
            writer.write_shard(split, shard, make(rng, stop - start))
    assert writer.finish()
    return writer


def write_source(
    root: pathlib.Path, splits: dict[str, int], size: int = 16, per_shard: int = 8
) -> StoreWriter:
    """Write a source store of random images."""
    return write(
        root,
        lambda rng, count: columns(rng, count, size),
        splits,
        per_shard,
        source={"generator": "tests"},
        settings={"image_size": size, "max_objects": MAX_OBJECTS},
    )


def write_features(
    root: pathlib.Path, source: StoreWriter, shape: tuple[int, int] = (16, 12)
) -> StoreWriter:
    """Write a store of random features for the examples of a source store."""
    return write(
        root,
        lambda rng, n: {"features": rng.normal(size=(n, *shape)).astype(np.float16)},
        source.splits,
        source.examples_per_shard,
        source={"fingerprint": source.fingerprint},
        settings={"encoder": "random", "source_fingerprint": source.fingerprint},
    )


def flip(path: pathlib.Path, byte: int, bit: int = 0):
    """Flip one bit of a file."""
    content = bytearray(path.read_bytes())
    content[byte] ^= 1 << bit
    path.write_bytes(content)


def files(root: pathlib.Path) -> dict[pathlib.Path, bytes]:
    """Return the content of all files below a folder, without locks."""
    return {
        path.relative_to(root): path.read_bytes()
        for path in root.rglob("*")
        if path.is_file() and not path.name.endswith(".__lock")
    }


def random_dataset(
    data_dir: pathlib.Path, splits: dict[str, int], size: int = 16
) -> pipeline.Dataset:
    """Write and open `<data_dir>/random` with features of the encoder `random`."""
    source = write_source(data_dir / "random", splits, size)
    write_features(data_dir / "random-random", source)
    return pipeline.open_dataset(data_dir, "random", encoder="random")
