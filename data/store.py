"""The store: Zarr v3 arrays, read with TensorStore, and a manifest.

A store is a folder:

    manifest.json           origin, settings and content
    zarr.json               the same as a Zarr group, once the store is complete
    <split>/<field>/        one Zarr v3 array [examples, ...]
    <split>/<field>/c/...   its shard files, `examples_per_shard` examples each

Shard files are written atomically, and each example has its own checksum. The existing
shard files are therefore the record of finished work.
"""

import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import tensorstore as ts

from sanorm_jax.core import files
from sanorm_jax.core.errors import UserError

from . import arrays, gather
from .manifest import (
    FORMAT,
    MANIFEST,
    VERSION,
    comes_before_manifest,
    difference,
    fingerprint,
    read_manifest,
)

Fields = Mapping[str, tuple[Sequence[int], str]]


class _Layout:
    """Paths and sizes that follow from a manifest, shared by reader and writer."""

    def __init__(self, root: pathlib.Path, manifest: dict[str, Any]):
        self.root = root
        self.manifest = manifest
        self.fields = {
            name: (tuple(field["shape"]), field["dtype"])
            for name, field in manifest["fields"].items()
        }
        self.splits = {
            name: split["num_examples"] for name, split in manifest["splits"].items()
        }
        self.examples_per_shard = manifest["examples_per_shard"]

    @property
    def settings(self) -> dict[str, Any]:
        """Settings that the store was written with."""
        return self.manifest["settings"]

    @property
    def fingerprint(self) -> str:
        """SHA-256 of source, settings, fields and splits."""
        return self.manifest["fingerprint"]

    def num_examples(self, split: str) -> int:
        """Return the number of examples of a split.

        Raises:
          UserError: The split does not exist.
        """
        if split not in self.splits:
            raise UserError(
                f"{self.root}: no split {split}; choose from {', '.join(self.splits)}"
            )
        return self.splits[split]

    def num_shards(self, split: str) -> int:
        """Return the number of shard files of each field of a split."""
        return -(-self.num_examples(split) // self.examples_per_shard)

    def shard_range(self, split: str, shard: int) -> tuple[int, int]:
        """Return the range of examples of a shard, as start and stop."""
        start = shard * self.examples_per_shard
        return start, min(start + self.examples_per_shard, self.num_examples(split))

    def shard_file(self, split: str, field: str, shard: int) -> pathlib.Path:
        """Return the file of a shard of a field."""
        zeros = ["0"] * len(self.fields[field][0])
        return self.root.joinpath(split, field, "c", str(shard), *zeros)

    def missing_shards(self, split: str) -> list[int]:
        """Return the shards of a split that lack the file of any field."""
        return [
            shard
            for shard in range(self.num_shards(split))
            if not all(
                self.shard_file(split, field, shard).exists() for field in self.fields
            )
        ]


class StoreWriter(_Layout):
    """Writer of a store, created by `StoreWriter.create`.

    Shards may be written in any order and by several processes.
    """

    @classmethod
    def create(
        cls,
        root: str | pathlib.Path,
        *,
        dataset: str,
        source: Mapping[str, Any],
        settings: Mapping[str, Any],
        fields: Fields,
        splits: Mapping[str, int],
        examples_per_shard: int,
    ) -> "StoreWriter":
        """Create a store, or resume one with the same content.

        Args:
          root: Folder of the store; created if absent.
          dataset: Name of the dataset.
          source: JSON description of the original data.
          settings: JSON settings that define the content.
          fields: Shape and dtype of each field of an example, by name.
          splits: Number of examples by split.
          examples_per_shard: Number of examples per file; the last file may hold
            fewer.

        Raises:
          UserError: `root` holds a store with other content (the message shows the
            difference), holds other files, or is not writable.
        """
        root = pathlib.Path(root)
        given = {
            "format": FORMAT,
            "version": VERSION,
            "dataset": dataset,
            "source": dict(source),
            "settings": dict(settings),
            "fields": {
                name: {"shape": list(shape), "dtype": dtype}
                for name, (shape, dtype) in fields.items()
            },
            "splits": {n: {"num_examples": int(k)} for n, k in splits.items()},
            "examples_per_shard": examples_per_shard,
        }
        given = json.loads(json.dumps(given))
        given["fingerprint"] = fingerprint(given)
        # Another job may create the store concurrently. List the folder before checking
        # for the manifest, so that the first files of that job do not count as foreign.
        others = (
            [p for p in root.iterdir() if not comes_before_manifest(p)]
            if root.is_dir()
            else []
        )
        if not (root / MANIFEST).exists():
            if others:
                raise UserError(
                    f"{root}: exists but is not a store ({MANIFEST} is missing); "
                    "choose another --name or --data_dir"
                )
            try:
                root.mkdir(parents=True, exist_ok=True)
                content = files.to_json(given | {"complete": False})
                files.create(root / MANIFEST, content)
            except OSError as error:
                raise UserError(
                    f"{root}: not writable ({error.strerror}); choose another "
                    "--data_dir"
                ) from None
        recorded = read_manifest(root)
        if recorded["fingerprint"] != given["fingerprint"]:
            raise UserError(
                f"{root}: written with other settings "
                f"({difference(recorded, given)}); choose another --name or "
                "--data_dir, or remove it"
            )
        return cls(root, recorded)

    def _array(self, split: str, field: str) -> ts.TensorStore:
        shape, dtype = self.fields[field]
        count = self.num_examples(split)
        path = self.root / split / field
        metadata = arrays.metadata(shape, dtype, count, self.examples_per_shard)
        spec = arrays.spec(path) | {"metadata": metadata}
        return ts.open(spec, create=True, open=True, context=arrays.context()).result()

    def write_shard(self, split: str, shard: int, columns: Mapping[str, np.ndarray]):
        """Write one shard of every field; each file is written atomically.

        Args:
          split: Name of the split.
          shard: Number of the shard.
          columns: Values of all fields, `[examples_of_shard, ...]`, by name.

        Raises:
          UserError: Fields, shapes or dtypes are wrong, or the disk is full.
        """
        start, stop = self.shard_range(split, shard)
        if columns.keys() != self.fields.keys():
            raise UserError(
                f"{self.root}: shard {shard} of {split} has fields "
                f"{sorted(columns)}; pass {sorted(self.fields)}"
            )
        for field, (shape, dtype) in self.fields.items():
            column = np.asarray(columns[field])
            if column.shape != (stop - start, *shape) or column.dtype != dtype:
                raise UserError(
                    f"{self.root}: {field} of shard {shard} of {split} is "
                    f"{column.dtype}{list(column.shape)}; pass "
                    f"{dtype}{[stop - start, *shape]}"
                )
        try:
            for field in self.fields:
                column = np.ascontiguousarray(columns[field])
                self._array(split, field)[start:stop].write(column).result()
        except (ValueError, OSError) as error:
            raise UserError(
                f"{self.root}: shard {shard} of {split} not written "
                f"({arrays.reason(error)}); fix the cause, such as a full disk, and "
                "run the command again (finished shards are kept)"
            ) from None

    def finish(self) -> bool:
        """Mark the store complete if no shard is missing; return whether it is."""
        if any(self.missing_shards(split) for split in self.splits):
            return False
        if not self.manifest["complete"]:
            self.manifest["complete"] = True
            files.write(self.root / MANIFEST, files.to_json(self.manifest))
        arrays.write_groups(self.root, self.splits, self.manifest)
        return True


class Store(_Layout):
    """Reader of a store's examples, created by `Store.open`."""

    def __init__(self, root: pathlib.Path, manifest: dict[str, Any]):
        super().__init__(root, manifest)
        self._context = arrays.context()
        self._arrays: dict[tuple[str, str], ts.TensorStore] = {}
        self._gatherers: dict[tuple[str, str], gather.Gatherer | None] = {}

    @classmethod
    def open(
        cls, root: str | pathlib.Path, *, allow_incomplete: bool = False
    ) -> "Store":
        """Open a store.

        Args:
          root: Folder of the store.
          allow_incomplete: Whether shards may be missing; `available` then returns
            the readable examples.

        Raises:
          UserError: The store is missing, of another format or version, or
            incomplete (the message counts the missing shards).
        """
        store = cls(pathlib.Path(root), read_manifest(pathlib.Path(root)))
        missing = {split: len(store.missing_shards(split)) for split in store.splits}
        if any(missing.values()) and not allow_incomplete:
            parts = [
                f"{split} {count} of {store.num_shards(split)}"
                for split, count in missing.items()
                if count
            ]
            raise UserError(
                f"{root}: incomplete (missing shards: {', '.join(parts)}); run the "
                "command that wrote it again"
            )
        return store

    def available(self, split: str) -> np.ndarray:
        """Return the indices of the examples in existing shards, `[n]` int64."""
        indices = np.arange(self.num_examples(split))
        missing = self.missing_shards(split)
        return indices[~np.isin(indices // self.examples_per_shard, missing)]

    def _array(self, split: str, field: str) -> ts.TensorStore:
        key = (split, field)
        if key not in self._arrays:
            self.num_examples(split)
            if field not in self.fields:
                raise UserError(
                    f"{self.root}: no field {field}; choose from "
                    f"{', '.join(self.fields)}"
                )
            path = self.root / split / field
            try:
                self._arrays[key] = ts.open(
                    arrays.spec(path), read=True, context=self._context
                ).result()
            except (ValueError, OSError) as error:
                raise UserError(
                    f"{path}: unreadable ({arrays.reason(error)}); write the store "
                    "again"
                ) from None
        return self._arrays[key]

    def read(self, split: str, field: str, indices: npt.ArrayLike) -> np.ndarray:
        """Return a field of the examples `indices`, in order, `[len(indices), ...]`.

        Raises:
          UserError: The split, the field or an example does not exist, or a shard is
            missing or damaged (the message names its file).
        """
        array = self._array(split, field)
        wanted = np.asarray(indices, np.int64)
        if not len(wanted):
            return np.zeros((0, *array.shape[1:]), array.dtype.numpy_dtype)
        if wanted.min() < 0 or wanted.max() >= array.shape[0]:
            raise UserError(
                f"{self.root}: no examples {wanted.min()} to {wanted.max()} in "
                f"{split}; choose from 0 to {array.shape[0] - 1}"
            )
        gatherer = self._gatherer(split, field)
        try:
            if gatherer is not None:
                return gatherer(wanted)
            return array[wanted].read().result()
        except (ValueError, OSError, gather.DamageError) as error:
            raise UserError(self._damage(split, field, wanted, error)) from None

    def _gatherer(self, split: str, field: str) -> gather.Gatherer | None:
        """Return the fast reader of a field, or None if it needs TensorStore."""
        key = (split, field)
        if key not in self._gatherers:
            shape, dtype = self.fields[field]
            metadata = self._array(split, field).spec().to_json()["metadata"]
            self._gatherers[key] = None
            if gather.can_gather(metadata["codecs"], shape):
                self._gatherers[key] = gather.Gatherer(
                    lambda shard: self.shard_file(split, field, shard),
                    shape,
                    dtype,
                    self.examples_per_shard,
                )
        return self._gatherers[key]

    def _damage(self, split, field, indices, error) -> str:
        for shard in np.unique(indices // self.examples_per_shard).tolist():
            reason = self.check_shard(split, field, shard)
            if reason:
                return reason
        return (
            f"{self.root / split / field}: unreadable ({arrays.reason(error)}); write "
            "the store again"
        )

    def check_array(self, split: str, field: str) -> str | None:
        """Return an error message if an array contradicts the manifest, or None."""
        path = self.root / split / field / arrays.METADATA
        if not path.exists():
            return f"{path}: missing; run the command that wrote the store again"
        try:
            array = self._array(split, field)
        except UserError as error:
            return str(error)
        shape, dtype = self.fields[field]
        chunk = array.chunk_layout.write_chunk_template
        found = (array.shape, array.dtype.name, chunk.shape[0])
        wanted = ((self.splits[split], *shape), dtype, self.examples_per_shard)
        if found != wanted:
            return (
                f"{path}: damaged (has {found}, the manifest {wanted}); write the "
                "store again"
            )
        return None

    def check_shard(self, split: str, field: str, shard: int) -> str | None:
        """Read a shard file; return an error message if it is damaged, or None."""
        path = self.shard_file(split, field, shard)
        if not path.exists():
            return f"{path}: missing; run the command that wrote the store again"
        start, stop = self.shard_range(split, shard)
        try:
            values = self._array(split, field)[start:stop].read().result()
        except (ValueError, OSError) as error:
            reason = arrays.reason(error)
            return f"{path}: damaged ({reason}); remove it and write it again"
        if values.dtype.kind == "f" and not np.isfinite(values).all():
            return f"{path}: contains non-finite values; remove it and write it again"
        return None

    def column(self, split: str, field: str) -> np.ndarray:
        """Return a field of all examples of a split; use it for small fields only."""
        return self.read(split, field, np.arange(self.num_examples(split)))
