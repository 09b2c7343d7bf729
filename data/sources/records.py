"""Streaming of the published multi-object datasets from gzip TFRecord files.

The format is defined by `clevr_with_masks.py` and `tetrominoes.py` in
https://github.com/google-deepmind/multi_object_datasets. It stores each pixel as a
separate byte string, and TensorFlow's parser takes 70 ms per CLEVR scene. This module
reads the list of strings as a single bytes field instead, in which every third byte is
a pixel.
"""

import functools
import hashlib
import itertools
import pathlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pooch
from absl import logging
from google.protobuf import (
    descriptor_pb2,
    descriptor_pool,
    message,
    message_factory,
    text_format,
)

from sanorm_jax.core import console, lazy
from sanorm_jax.core.errors import UserError

from .base import Example, Options, Source, SourceError

URL = "https://storage.googleapis.com/multi-object-datasets"

# Shape and value type (`byte` or `float`) of each feature, by name.
Features = Mapping[str, tuple[Sequence[int], str]]

_BUFFER_BYTES = 8 << 20
_CHUNK_BYTES = 1 << 20
_PREFETCHED = 4

# `tf.train.Example`, but with value lists as bytes. A map is a list of entries.
_PROTO = """
name: "raw_example.proto"
message_type {
  name: "Feature"
  field { name: "bytes_list" number: 1 type: TYPE_BYTES }
  field { name: "float_list" number: 2 type: TYPE_BYTES }
}
message_type {
  name: "Entry"
  field { name: "key" number: 1 type: TYPE_STRING }
  field { name: "value" number: 2 type_name: ".Feature" type: TYPE_MESSAGE }
}
message_type {
  name: "Features"
  field {
    name: "feature" number: 1 label: LABEL_REPEATED
    type_name: ".Entry" type: TYPE_MESSAGE
  }
}
message_type {
  name: "Example"
  field { name: "features" number: 1 type_name: ".Features" type: TYPE_MESSAGE }
}
"""
_pool = descriptor_pool.DescriptorPool()
_pool.Add(text_format.Parse(_PROTO, descriptor_pb2.FileDescriptorProto()))
_Example = message_factory.GetMessageClass(_pool.FindMessageTypeByName("Example"))


def _values(feature, kind: str) -> np.ndarray:
    """Return the values of a feature, `[n]`; ValueError if the type is wrong."""
    if kind == "byte":
        # [n, 3]: tag, length 1, the byte.
        rows = np.frombuffer(feature.bytes_list, np.uint8).reshape(-1, 3)
        if not ((rows[:, 0] == 0x0A) & (rows[:, 1] == 1)).all():
            raise ValueError("are not single bytes")
        return rows[:, 2]
    packed = lazy.tensorflow().train.FloatList.FromString(feature.float_list)
    return np.asarray(packed.value, np.float32)


def _parse(record: bytes, features: Features) -> dict[str, np.ndarray]:
    """Return the values of a serialized example by name, as uint8 or float32.

    Raises:
      ValueError: A feature is missing or has another shape or type.
    """
    try:
        entries = _Example.FromString(record).features.feature
    except message.DecodeError:
        raise ValueError("is not a tf.train.Example") from None
    found = {entry.key: entry.value for entry in entries}
    values = {}
    for name, (shape, kind) in features.items():
        if name not in found:
            raise ValueError(f"has no feature {name}")
        try:
            values[name] = _values(found[name], kind).reshape(shape)
        except (ValueError, message.DecodeError):
            raise ValueError(f"{name} is not {kind}{list(shape)}") from None
    return values


def _parse_at(
    path: pathlib.Path, index: int, record: bytes, features: Features
) -> dict[str, np.ndarray]:
    try:
        return _parse(record, features)
    except ValueError as error:
        raise SourceError(
            f"{path}: record {index} {error}; pass the file of the dataset"
        ) from None


def _find(options: Options) -> pathlib.Path:
    """Return the file of a dataset: `--source`, or a download if that is not set."""
    name = f"{options.dataset}_train.tfrecords"
    path = options.source
    if path is None:
        url = f"{URL}/{options.dataset}/{name}"
        return _download(url, options.data_dir / "downloads")
    if path.is_dir():
        path = path / name
    if not path.is_file():
        raise UserError(f"--source={path}: not found; pass {name}")
    return path


def _download(url: str, folder: pathlib.Path) -> pathlib.Path:
    """Download a file atomically unless it exists, and return its path."""
    name = url.rsplit("/", 1)[1]
    logging.info("downloading %s to %s unless present", url, folder)
    pooch.get_logger().setLevel("WARNING")
    downloader = pooch.HTTPDownloader(
        progressbar=console.CONSOLE.is_terminal, chunk_size=_CHUNK_BYTES
    )
    try:
        pooch.retrieve(url, None, fname=name, path=folder, downloader=downloader)
    except OSError as error:  # The base class of requests' errors too.
        raise UserError(
            f"{url}: not downloaded to {folder} ({error.strerror or error}); run the "
            f"command again, or download it yourself (`curl -C - -O {url}` resumes) "
            "and pass the file with --source"
        ) from None
    return folder / name


def _records(path: pathlib.Path, start: int, stop: int) -> Iterator[tuple[int, bytes]]:
    """Yield the indices and records in `range(start, stop)`.

    Memory use is independent of the file size.

    Raises:
      SourceError: The file is truncated or corrupt, or has too few records.
    """
    tf = lazy.tensorflow()
    dataset = tf.data.TFRecordDataset(
        str(path), compression_type="GZIP", buffer_size=_BUFFER_BYTES
    )
    dataset = dataset.skip(start).take(stop - start).prefetch(_PREFETCHED)
    index = start
    try:
        for record in dataset.as_numpy_iterator():
            yield index, record
            index += 1
    except tf.errors.OpError:
        raise SourceError(
            f"{path}: truncated, corrupt or not a gzip TFRecord file (after {index} "
            "records); download it again"
        ) from None
    if index < stop:
        raise SourceError(
            f"{path}: has {index} records, but the splits need {stop}; download it "
            "again, or request fewer with --splits"
        )


def _examples(
    split: str,
    start: int,
    *,
    path: pathlib.Path,
    features: Features,
    convert: Callable[[dict[str, np.ndarray]], Example],
    ranges: Mapping[str, tuple[int, int]],
) -> Iterator[Example]:
    """Yield the examples of a split, starting at `start`."""
    first, stop = ranges[split]
    for index, record in _records(path, first + start, stop):
        values = _parse_at(path, index, record, features)
        try:
            example = convert(values)
        except ValueError as error:
            raise SourceError(
                f"{path}: record {index} has {error}; download the file again"
            ) from None
        yield example


def visible_objects(values: dict[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Return the entities that are objects, `[M]`, and the label of each entity."""
    visible = 1 + np.flatnonzero(values["visibility"][1:] > 0.5)
    labels = np.zeros(len(values["visibility"]), np.uint8)
    labels[visible] = np.arange(1, len(visible) + 1)
    return visible, labels


def source(
    options: Options,
    features: Features,
    splits: dict[str, int],
    convert: Callable[[dict[str, np.ndarray]], Example],
    settings: dict[str, Any],
    **rest,
) -> Source:
    """Return the source of a TFRecord file, with other attributes `rest`.

    `splits` has the published sizes. `convert` converts the values of a record to an
    example, and raises ValueError if they are out of range.
    """
    path = _find(options)
    splits = dict(options.splits or splits)
    # Splits are consecutive in the file.
    ends = np.cumsum([0, *splits.values()]).tolist()
    ranges = dict(zip(splits, itertools.pairwise(ends), strict=True))
    ((_, record),) = _records(path, 0, 1)
    _parse_at(path, 0, record, features)
    return Source(
        source={
            "file": path.name,
            "bytes": path.stat().st_size,
            "first_record": hashlib.sha256(record).hexdigest(),
        },
        settings=settings | {"first_record": {n: r[0] for n, r in ranges.items()}},
        splits=splits,
        examples=functools.partial(
            _examples, path=path, features=features, convert=convert, ranges=ranges
        ),
        **rest,
    )
