"""tf.data pipelines over a store: selection, order and distribution of the examples.

The order of training examples is a pure function of (seed, step). A run therefore
resumes exactly from its step alone.
"""

import functools
import pathlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from sanorm_jax.core import lazy
from sanorm_jax.core.errors import UserError

from . import properties
from .manifest import PROJECTION, feature_root
from .store import Store

# Batches being read and batches queued. Together with the batch in use, they bound the
# memory of the pipeline.
PARALLEL_READS = 2
PREFETCHED = 2

Batch = dict[str, np.ndarray]


class Dataset:
    """A source store, joined with a feature store if there is one.

    Created by `open_dataset`.

    Attributes:
      fields: Shape and dtype of each field of an example, by name.
      splits: Number of examples by split.
      settings: Settings of the source store.
      feature_settings: Settings of the feature store; None without one.
      projection: File of the projection of the features; None if not projected.
      fingerprints: Fingerprints of the stores, under `source` and `features`.
      file_names: Image files that the examples were made from, in order; None if
        they were not made from image files.
    """

    def __init__(self, source: Store, features: Store | None = None):
        self._stores = dict.fromkeys(source.fields, source)
        self._all = [source]
        self.splits = dict(source.splits)
        self.settings = source.settings
        self.feature_settings = self.projection = None
        self.fingerprints = {"source": source.fingerprint}
        self.file_names = source.manifest["source"].get("files")
        if features is not None:
            self._stores |= dict.fromkeys(features.fields, features)
            self._all.append(features)
            self.splits = dict(features.splits)
            self.feature_settings = features.settings
            if "projection" in features.settings:
                self.projection = features.root / PROJECTION
            self.fingerprints["features"] = features.fingerprint
        self.fields = {name: s.fields[name] for name, s in self._stores.items()}
        if "shape" in self.fields:
            (max_objects,), _ = self.fields["shape"]
            self.fields["properties"] = ((max_objects, properties.DIM), "float32")

    def num_examples(self, split: str) -> int:
        """Return the number of examples of a split.

        Raises:
          UserError: The split does not exist.
        """
        return self._all[-1].num_examples(split)

    def read(self, split: str, field: str, indices: Sequence[int]) -> np.ndarray:
        """Return a field of the examples `indices`, in order, `[len(indices), ...]`.

        Raises:
          UserError: The field does not exist, or `Store.read` fails.
        """
        if field not in self.fields:
            raise UserError(
                f"{self._all[0].root}: no field {field}; choose from "
                f"{', '.join(self.fields)}"
            )
        if field == "properties":
            names = properties.COLUMNS
            return properties.to_vectors(
                {name: self.read(split, name, indices) for name in names}
            )
        return self._stores[field].read(split, field, indices)


def open_dataset(
    data_dir: str | pathlib.Path, name: str, encoder: str | None = None
) -> Dataset:
    """Open `<data_dir>/<name>`, joined with the features of `encoder` if not None.

    Raises:
      UserError: A store is missing, incomplete or of another version, or the
        features come from other images or another encoder.
    """
    data_dir = pathlib.Path(data_dir)
    source = Store.open(data_dir / name)
    if encoder is None:
        return Dataset(source)
    features = Store.open(feature_root(data_dir, name, encoder))
    if features.settings.get("source_fingerprint") != source.fingerprint:
        raise UserError(
            f"{features.root}: not extracted from the current {source.root}; remove it "
            "and run python -m feature_extraction.extract again"
        )
    if features.settings.get("encoder") != encoder:
        raise UserError(
            f"{features.root}: holds features of {features.settings.get('encoder')}, "
            f"not of {encoder}; rename the folder back"
        )
    return Dataset(source, features)


def select(
    dataset: Dataset,
    split: str,
    *,
    min_objects: int | None = None,
    max_objects: int | None = None,
    num_examples: int | None = None,
    num_sequences: int | None = None,
    data_seed: int = 0,
) -> np.ndarray:
    """Return the ascending indices of the examples to use, `[n]` int64.

    Args:
      dataset: Dataset to select from.
      split: Name of the split.
      min_objects: Minimum number of objects per image.
      max_objects: Maximum number of objects per image.
      num_examples: Maximum number of images, sampled with `data_seed`.
      num_sequences: Maximum number of videos, sampled with `data_seed`. In a dataset
        without videos, each image is a sequence.
      data_seed: Seed of the sampling.

    Raises:
      UserError: A limit is not positive, or no example remains.
    """
    limits = {
        "min_objects": min_objects,
        "max_objects": max_objects,
        "num_examples": num_examples,
        "num_sequences": num_sequences,
    }
    for name, value in limits.items():
        if value is not None and value <= 0:
            raise UserError(f"{name}={value}: not positive; choose at least 1")
    indices = np.arange(dataset.num_examples(split))
    if min_objects is not None or max_objects is not None:
        counts = dataset.read(split, "num_objects", indices)
        at_least, at_most = min_objects or 0, max_objects or np.inf
        indices = indices[(counts >= at_least) & (counts <= at_most)]
    if num_sequences is not None:
        videos = indices
        if "video" in dataset.fields:
            videos = dataset.read(split, "video", indices)
        kept = _draw(np.unique(videos), num_sequences, data_seed)
        indices = indices[np.isin(videos, kept)]
    if num_examples is not None:
        indices = _draw(indices, num_examples, data_seed)
    if not len(indices):
        active = ", ".join(f"{k}={v}" for k, v in limits.items() if v is not None)
        raise UserError(
            f"{active or split}: selects no example of {split}; relax the limits"
        )
    return indices


def _draw(values: np.ndarray, count: int, seed: int) -> np.ndarray:
    if count >= len(values):
        return values
    rng = np.random.Generator(np.random.Philox(key=[seed, 2**63]))
    return np.sort(rng.choice(values, count, replace=False))


def _order(indices: np.ndarray, seed: int) -> Callable[[int, int], np.ndarray]:
    """Return `read(start, count)`, a part of the infinite stream of examples.

    The stream has one random permutation per epoch: position p of it belongs to epoch
    p // len(indices).
    """
    n = len(indices)

    # Concurrent batches span at most two epochs. `lru_cache` is thread-safe.
    @functools.lru_cache(maxsize=2)
    def permutation(epoch: int) -> np.ndarray:
        # Counter-based: the order of an epoch does not depend on earlier epochs.
        return np.random.Generator(np.random.Philox(key=[seed, epoch])).permutation(n)

    def read(start: int, count: int) -> np.ndarray:
        positions = np.arange(start, start + count)
        chosen = np.empty(count, np.int64)
        for epoch in np.unique(positions // n).tolist():
            in_epoch = positions // n == epoch
            chosen[in_epoch] = permutation(epoch)[positions[in_epoch] % n]
        return indices[chosen]

    return read


def _host_rows(batch_size: int, host_index: int, num_hosts: int) -> range:
    if batch_size % num_hosts:
        raise UserError(
            f"batch_size={batch_size}: not a multiple of the {num_hosts} hosts; choose "
            "a multiple"
        )
    rows = batch_size // num_hosts
    return range(host_index * rows, (host_index + 1) * rows)


def train_reader(
    dataset: Dataset,
    split: str,
    indices: np.ndarray,
    *,
    fields: Sequence[str],
    batch_size: int,
    seed: int,
    host_index: int = 0,
    num_hosts: int = 1,
) -> Callable[[int], Batch]:
    """Return `read(step)`, a thread-safe function that reads a training batch.

    A batch holds the fields, `[B/hosts, ...]`, and `position`, `[B/hosts]` int32: the
    row of each example in the global batch.

    Args:
      dataset: Dataset to read.
      split: Name of the split.
      indices: Examples to use, as returned by `select`.
      fields: Names of the fields to read.
      batch_size: Global batch size B.
      seed: Seed of the order.
      host_index: Index of this host, from 0.
      num_hosts: Number of hosts that share each batch. Host h reads B/hosts rows,
        starting at row h * B/hosts.
    """
    rows = _host_rows(batch_size, host_index, num_hosts)
    position = np.arange(rows.start, rows.stop, dtype=np.int32)
    order = _order(indices, seed)

    def read(step: int) -> Batch:
        chosen = order(step * batch_size + rows.start, len(rows))
        batch = {field: dataset.read(split, field, chosen) for field in fields}
        return batch | {"position": position}

    return read


def train_batches(
    dataset: Dataset, *args, start_step: int, num_steps: int, **options
) -> Iterator[Batch]:
    """Yield the training batches of `num_steps` steps, starting at `start_step`.

    The other arguments are those of `train_reader`. Earlier batches are not read.

    Raises:
      UserError: The store is damaged or missing, or lacks a field.
    """
    read = train_reader(dataset, *args, **options)
    fields, extra = options["fields"], {"position": "int32"}
    return _run(read, dataset, fields, extra, start_step, num_steps)


def eval_batches(
    dataset: Dataset,
    split: str,
    indices: np.ndarray,
    *,
    fields: Sequence[str],
    batch_size: int,
    host_index: int = 0,
    num_hosts: int = 1,
) -> Iterator[Batch]:
    """Yield each example once across all hosts, in batches of equal shape.

    The arguments are those of `train_reader`. The last batch is padded by repeating its
    last example.

    Yields:
      Batches with the fields, `[B/hosts, ...]`; `index`, `[B/hosts]` int32, the index
      of each example in its split; and `mask`, `[B/hosts]` bool, False for padding.
    """
    rows = _host_rows(batch_size, host_index, num_hosts)
    position = np.arange(rows.start, rows.stop)

    def read(step: int) -> Batch:
        positions = step * batch_size + position
        chosen = indices[np.minimum(positions, len(indices) - 1)]
        mask = positions < len(indices)
        batch = {field: dataset.read(split, field, chosen) for field in fields}
        return batch | {"index": chosen.astype(np.int32), "mask": mask}

    num_steps = -(-len(indices) // batch_size)
    return _run(read, dataset, fields, {"index": "int32", "mask": "bool"}, 0, num_steps)


def _run(
    read: Callable[[int], Batch],
    dataset: Dataset,
    fields: Sequence[str],
    extra: dict[str, str],
    start: int,
    count: int,
) -> Iterator[Batch]:
    """Prefetch the batches of `read` with tf.data, in parallel and in order."""
    for field in fields:
        if field not in dataset.fields:
            raise UserError(
                f"dataset: no field {field}; choose from {', '.join(dataset.fields)}"
            )
    # A single batch needs no prefetching, and importing TensorFlow takes seconds.
    if count == 1:
        return map(read, [start])
    tf = lazy.tensorflow()
    dtypes = {field: dataset.fields[field][1] for field in fields} | extra
    failures: list[Exception] = []

    def guarded(step: np.int64) -> list[Any]:
        try:
            batch = read(int(step))
        except Exception as error:
            failures.append(error)
            raise
        return [batch[name] for name in dtypes]

    def load(step):
        values = tf.numpy_function(guarded, [step], list(dtypes.values()))
        return dict(zip(dtypes, values, strict=True))

    batches = (
        tf.data.Dataset.range(start, start + count)
        .map(load, num_parallel_calls=PARALLEL_READS, deterministic=True)
        .prefetch(PREFETCHED)
    )

    def iterate():
        try:
            yield from batches.as_numpy_iterator()
        except tf.errors.OpError as error:
            # TensorFlow buries the exception in a long message. Raise the cause.
            raise (failures[0] if failures else error) from None

    return iterate()
