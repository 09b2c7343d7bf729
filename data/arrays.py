"""Zarr v3 layout of a store: one array per field, one group per split."""

import contextlib
import pathlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import tensorstore as ts

from sanorm_jax.core import files

# Metadata file of a Zarr array or group.
METADATA = "zarr.json"

# Maximum bytes per example for which one chunk holds an entire shard. Such columns are
# always read completely.
_SMALL_BYTES = 1024


def context() -> ts.Context:
    """Return a context without a cache."""
    # Each example is read once per epoch, so a cache would only cost memory.
    return ts.Context({"cache_pool": {"total_bytes_limit": 0}})


def spec(path: pathlib.Path) -> dict[str, Any]:
    """Return the TensorStore spec that opens the array in the folder `path`."""
    return {
        "driver": "zarr3",
        "kvstore": {"driver": "file", "path": f"{path.absolute()}/"},
        # All-zero chunks are stored too, so that a missing chunk is always an error.
        "store_data_equal_to_fill_value": True,
        "fill_missing_data_reads": False,
    }


def metadata(
    shape: Sequence[int], dtype: str, count: int, per_shard: int
) -> dict[str, Any]:
    """Return the Zarr metadata of a field with `count` examples of the given shape.

    They are the `shape`, `data_type`, `chunk_grid` and `codecs` of `zarr.json`, and the
    `fill_value` of float fields.
    """
    kind = np.dtype(dtype)
    size = kind.itemsize * int(np.prod(shape, dtype=np.int64))
    per_chunk = per_shard if size <= _SMALL_BYTES else 1
    as_bytes: dict[str, Any] = {"name": "bytes"}
    if kind.itemsize > 1:
        as_bytes["configuration"] = {"endian": "little"}
    codecs = [as_bytes]
    if kind == np.uint8 and per_chunk == 1:
        # Images and label maps. Features do not compress enough to justify the cost.
        codecs.append({"name": "zstd", "configuration": {"level": 3}})
    index = [{"name": "bytes", "configuration": {"endian": "little"}}]
    sharding = {
        "chunk_shape": [per_chunk, *shape],
        "codecs": [*codecs, {"name": "crc32c"}],
        "index_codecs": [*index, {"name": "crc32c"}],
    }
    # Other readers return the fill value for a missing shard. Zeros could be mistaken
    # for features.
    fill = {"fill_value": "NaN"} if kind.kind == "f" else {}
    return fill | {
        "shape": [count, *shape],
        "data_type": kind.name,
        "chunk_grid": {
            "name": "regular",
            "configuration": {"chunk_shape": [per_shard, *shape]},
        },
        "codecs": [{"name": "sharding_indexed", "configuration": sharding}],
    }


def write_groups(
    root: pathlib.Path, splits: Iterable[str], attributes: Mapping[str, Any]
):
    """Write the Zarr group metadata of a store and its splits, for other readers.

    The attributes are those of the store's group. Existing files are kept, and a
    read-only store is left unchanged.
    """
    group = {"zarr_format": 3, "node_type": "group", "attributes": {}}
    groups = {root / split: group for split in splits if (root / split).is_dir()}
    groups[root] = group | {"attributes": dict(attributes)}
    with contextlib.suppress(OSError):
        for folder, content in groups.items():
            if not (folder / METADATA).exists():
                files.write(folder / METADATA, files.to_json(content))


def reason(error: Exception) -> str:
    """Return the first line of a TensorStore error."""
    # TensorStore appends source locations after the first bracketed part.
    return str(error).splitlines()[0].split(" [")[0][:300]
