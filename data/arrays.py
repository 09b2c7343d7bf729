"""How a field lies in a Zarr v3 array, and a store in groups of them."""

import contextlib
import pathlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import tensorstore as ts

from sanorm_jax.core import files

# The file of an array, or a group, that says what it is.
METADATA = "zarr.json"

# Columns of few bytes an example are read whole; one chunk holds a shard of them.
_SMALL_BYTES = 1024


def context() -> ts.Context:
    """Return a context without a cache."""
    # Each example is read once an epoch: a cache would only take memory.
    return ts.Context({"cache_pool": {"total_bytes_limit": 0}})


def spec(path: pathlib.Path) -> dict[str, Any]:
    """Return what opens the array in the folder `path`."""
    return {
        "driver": "zarr3",
        "kvstore": {"driver": "file", "path": f"{path.absolute()}/"},
        # A chunk of zeros is stored like any other; a missing one is an error.
        "store_data_equal_to_fill_value": True,
        "fill_missing_data_reads": False,
    }


def metadata(
    shape: Sequence[int], dtype: str, count: int, per_shard: int
) -> dict[str, Any]:
    """Return the Zarr metadata of a field.

    Args:
      shape: of an example.
      dtype: of the field.
      count: number of examples.
      per_shard: examples a shard file.

    Returns:
      `shape`, `data_type`, `chunk_grid`, `codecs` and, of floats, `fill_value` of
      `zarr.json`.
    """
    kind = np.dtype(dtype)
    size = kind.itemsize * int(np.prod(shape, dtype=np.int64))
    per_chunk = per_shard if size <= _SMALL_BYTES else 1
    as_bytes: dict[str, Any] = {"name": "bytes"}
    if kind.itemsize > 1:
        as_bytes["configuration"] = {"endian": "little"}
    codecs = [as_bytes]
    if kind == np.uint8 and per_chunk == 1:
        # Images and label maps; features do not compress enough to pay for it.
        codecs.append({"name": "zstd", "configuration": {"level": 3}})
    index = [{"name": "bytes", "configuration": {"endian": "little"}}]
    sharding = {
        "chunk_shape": [per_chunk, *shape],
        "codecs": [*codecs, {"name": "crc32c"}],
        "index_codecs": [*index, {"name": "crc32c"}],
    }
    # What other readers return for a missing shard file: zeros could be features.
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
    """Make a store and its splits groups for other readers; what is there stays.

    A store that can only be read is left as it is.

    Args:
      root: folder of the store.
      splits: names of the splits.
      attributes: of the store's group, as JSON.
    """
    group = {"zarr_format": 3, "node_type": "group", "attributes": {}}
    groups = {root / split: group for split in splits if (root / split).is_dir()}
    groups[root] = group | {"attributes": dict(attributes)}
    with contextlib.suppress(OSError):
        for folder, content in groups.items():
            if not (folder / METADATA).exists():
                files.write(folder / METADATA, files.to_json(content))


def reason(error: Exception) -> str:
    """Return the first line of an error of tensorstore."""
    # tensorstore appends source locations after the first bracketed part.
    return str(error).splitlines()[0].split(" [")[0][:300]
