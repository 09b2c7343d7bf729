"""Small stores of random content for tests of what reads them."""

import pathlib

import numpy as np

from sanorm_jax.data import pipeline
from sanorm_jax.data.store import StoreWriter

MAX_OBJECTS = 10


def columns(rng: np.random.Generator, count: int, size: int) -> dict[str, np.ndarray]:
    """Return random columns of the standard fields, [count, ...] each."""
    M = MAX_OBJECTS
    num_objects = rng.integers(1, M + 1, count).astype(np.int32)
    real = np.arange(M) < num_objects[:, None]
    kinds = {
        name: np.where(real, rng.integers(0, most, (count, M)), -1).astype(np.int8)
        for name, most in (("shape", 3), ("size", 2), ("material", 2), ("color", 8))
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


def write_source(
    root: pathlib.Path, splits: dict[str, int], size: int = 16, per_shard: int = 8
) -> StoreWriter:
    """Write a source store of random images."""
    fields = {
        name: (column.shape[1:], column.dtype.name)
        for name, column in columns(np.random.default_rng(0), 1, size).items()
    }
    writer = StoreWriter.create(
        root,
        dataset="random",
        source={"generator": "tests"},
        settings={"image_size": size, "max_objects": MAX_OBJECTS},
        fields=fields,
        splits=splits,
        examples_per_shard=per_shard,
    )
    _fill(writer, lambda rng, count: columns(rng, count, size))
    return writer


def write_features(
    root: pathlib.Path, source: StoreWriter, shape: tuple[int, int] = (16, 12)
) -> StoreWriter:
    """Write a store of random features for the examples of a source store."""
    writer = StoreWriter.create(
        root,
        dataset="random",
        source={"fingerprint": source.fingerprint},
        settings={"encoder": "random", "source_fingerprint": source.fingerprint},
        fields={"features": (shape, "float16")},
        splits=source.splits,
        examples_per_shard=source.examples_per_shard,
    )
    _fill(
        writer,
        lambda rng, n: {"features": rng.normal(size=(n, *shape)).astype(np.float16)},
    )
    return writer


def _fill(writer, make):
    for number, split in enumerate(writer.splits):
        for shard in writer.missing_shards(split):
            start, stop = writer.shard_range(split, shard)
            rng = np.random.default_rng([number, shard])
            writer.write_shard(split, shard, make(rng, stop - start))
    assert writer.finish()


def random_dataset(
    data_dir: pathlib.Path, splits: dict[str, int], size: int = 16
) -> pipeline.Dataset:
    """Write and opens `<data_dir>/random` with features of the encoder `random`."""
    source = write_source(data_dir / "random", splits, size)
    write_features(data_dir / "random-random", source)
    return pipeline.open_dataset(data_dir, "random", encoder="random")
