"""Direct reads of uncompressed examples from shard files into one array.

TensorStore copies each example twice and maps fresh memory for it. For feature stores
this dominates the input time of a training step. A sharded Zarr v3 array with
uncompressed inner chunks is simple enough to read directly: the bytes of an example are
contiguous and followed by their CRC-32C. The file ends with an index of offsets and
lengths, which has its own checksum.
"""

import collections
import concurrent.futures
import mmap
import os
import pathlib
import weakref
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import crc32c
import numpy as np

# Enough concurrent requests to keep a network file system busy.
_THREADS = 16
_CRC_BYTES = 4


class DamageError(Exception):
    """A shard file is truncated or corrupt."""


class _Lease:
    """Owner of a memory block, alive as long as any array that views the block."""

    def __init__(self, memory: mmap.mmap):
        self._bytes = np.frombuffer(memory, np.uint8)
        self.__array_interface__ = self._bytes.__array_interface__


class Buffers:
    """Pool of batch memory; a block is reused once no array refers to it.

    The kernel zeroes fresh memory, which costs as much as reading the batch.
    """

    def __init__(self):
        # Only a few batches are being read, queued or in use at the same time.
        self._free: collections.deque[mmap.mmap] = collections.deque(maxlen=8)

    def empty(self, shape: Sequence[int], dtype: Any) -> np.ndarray:
        """Return an uninitialized array, aligned so that TF and JAX do not copy it."""
        dtype = np.dtype(dtype)
        size = dtype.itemsize * int(np.prod(shape, dtype=np.int64))
        if not size:
            return np.empty(shape, dtype)
        memory = None
        for _ in range(len(self._free)):
            try:
                memory = self._free.popleft()
            except IndexError:  # Another thread took it.
                break
            if len(memory) == size:
                break
            memory = None  # From a batch size that is no longer in use.
        if memory is None:
            memory = mmap.mmap(-1, size)
            memory.madvise(mmap.MADV_HUGEPAGE)
        lease = _Lease(memory)
        weakref.finalize(lease, self._free.append, memory).atexit = False
        return np.asarray(lease).view(dtype).reshape(shape)


def can_gather(codecs: Sequence[Mapping[str, Any]], shape: Sequence[int]) -> bool:
    """Return whether `Gatherer` supports an array of a store.

    It reads uncompressed arrays with one example per chunk. `arrays.metadata` has the
    possible codecs.
    """
    sharding = codecs[0]["configuration"]
    inner = [codec["name"] for codec in sharding["codecs"]]
    return inner == ["bytes", "crc32c"] and sharding["chunk_shape"] == [1, *shape]


class Gatherer:
    """Reader of one array's examples, in any order and several at once.

    `shard_file` maps the number of a shard to its file.
    """

    def __init__(
        self,
        shard_file: Callable[[int], pathlib.Path],
        shape: Sequence[int],
        dtype: str,
        examples_per_shard: int,
    ):
        self._shard_file = shard_file
        self._shape, self._dtype = tuple(shape), np.dtype(dtype)
        self._size = self._dtype.itemsize * int(np.prod(shape, dtype=np.int64))
        self._per_shard = examples_per_shard
        self._offsets: dict[int, np.ndarray] = {}
        self._buffers = Buffers()
        self._pool = concurrent.futures.ThreadPoolExecutor(_THREADS)

    def __call__(self, indices: np.ndarray) -> np.ndarray:
        """Return the examples, `[len(indices), *shape]`.

        Raises:
          DamageError: An example is missing, or its checksum does not match.
          OSError: A file is missing or unreadable.
        """
        out = self._buffers.empty((len(indices), *self._shape), self._dtype)
        # [n, bytes]
        rows = out.reshape(len(indices), -1).view(np.uint8)
        list(self._pool.map(self._read, indices.tolist(), rows))
        return out

    def _read(self, index: int, row: np.ndarray):
        shard, position = divmod(index, self._per_shard)
        check = bytearray(_CRC_BYTES)
        file = os.open(self._shard_file(shard), os.O_RDONLY)
        try:
            if shard not in self._offsets:
                self._offsets[shard] = self._read_offsets(file)
            offset, length = self._offsets[shard][position].tolist()
            if length != self._size + _CRC_BYTES:
                raise DamageError("an example is missing")
            # One call reads at most 2 GiB on Linux; examples are far smaller.
            if os.preadv(file, [row, check], offset) != length:
                raise DamageError("the file is truncated")
        finally:
            os.close(file)
        if crc32c.crc32c(row) != int.from_bytes(check, "little"):
            raise DamageError("the checksum of an example does not match")

    def _read_offsets(self, file: int) -> np.ndarray:
        """Return byte offsets and lengths in the file, `[examples_per_shard, 2]`."""
        size = 16 * self._per_shard
        start = os.fstat(file).st_size - size - _CRC_BYTES
        index = os.pread(file, size + _CRC_BYTES, max(start, 0))
        if start < 0 or len(index) != size + _CRC_BYTES:
            raise DamageError("the file is truncated")
        if crc32c.crc32c(index[:size]) != int.from_bytes(index[size:], "little"):
            raise DamageError("the checksum of the index does not match")
        return np.frombuffer(index[:size], "<u8").reshape(-1, 2)
