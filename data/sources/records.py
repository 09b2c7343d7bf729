"""Streaming of the published multi-object datasets from gzip TFRecord files.

The format is defined by `clevr_with_masks.py` and `tetrominoes.py` in
https://github.com/google-deepmind/multi_object_datasets. It stores each pixel as a
separate byte string, and TensorFlow's parser takes 70 ms per CLEVR scene. This module
reads the list of strings as a single bytes field instead, in which every third byte is
a pixel.
"""

import functools
import hashlib
import pathlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pooch
from absl import logging
from google.protobuf import descriptor_pb2, descriptor_pool, message, message_factory

from sanorm_jax.core import console, lazy
from sanorm_jax.core.errors import UserError

from .base import Example, Options, Source, SourceError

URL = "https://storage.googleapis.com/multi-object-datasets"

# Shape and value type (`byte` or `float`) of each feature, by name.
Features = Mapping[str, tuple[Sequence[int], str]]

_BUFFER_BYTES = 8 << 20
_CHUNK_BYTES = 1 << 20
_PREFETCHED = 4


def _example_class():
    """Return a `tf.train.Example` message class that keeps value lists as bytes."""
    kinds = descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(
        name="raw_example.proto", package="raw_example", syntax="proto3"
    )
    one, many = kinds.LABEL_OPTIONAL, kinds.LABEL_REPEATED

    def add_field(message, name, number, type_name=None, kind=None, label=one):
        kind = kinds.TYPE_MESSAGE if type_name else kind
        message.field.add(
            name=name, number=number, label=label, type=kind, type_name=type_name
        )

    feature = file.message_type.add(name="Feature")
    add_field(feature, "bytes_list", 1, kind=kinds.TYPE_BYTES)
    add_field(feature, "float_list", 2, kind=kinds.TYPE_BYTES)
    features = file.message_type.add(name="Features")
    entry = features.nested_type.add(name="FeatureEntry")
    entry.options.map_entry = True
    add_field(entry, "key", 1, kind=kinds.TYPE_STRING)
    add_field(entry, "value", 2, ".raw_example.Feature")
    add_field(features, "feature", 1, ".raw_example.Features.FeatureEntry", label=many)
    example = file.message_type.add(name="Example")
    add_field(example, "features", 1, ".raw_example.Features")
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    name = pool.FindMessageTypeByName("raw_example.Example")
    return message_factory.GetMessageClass(name)


_Example = _example_class()


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


def parse(record: bytes, features: Features) -> dict[str, np.ndarray]:
    """Return the values of a serialized example by name, as uint8 or float32.

    Raises:
      ValueError: A feature is missing or has another shape or type.
    """
    try:
        found = _Example.FromString(record).features.feature
    except message.DecodeError:
        raise ValueError("is not a tf.train.Example") from None
    values = {}
    for name, (shape, kind) in features.items():
        if name not in found:
            raise ValueError(f"has no feature {name}")
        try:
            values[name] = _values(found[name], kind).reshape(shape)
        except (ValueError, message.DecodeError):
            raise ValueError(f"{name} is not {kind}{list(shape)}") from None
    return values


def find(options: Options, dataset: str) -> pathlib.Path:
    """Return the file of a dataset: `--source`, or a download if that is not set."""
    name = f"{dataset}_train.tfrecords"
    path = options.source
    if path is None:
        return _download(f"{URL}/{dataset}/{name}", options.data_dir / "downloads")
    if path.is_dir():
        path = path / name
    if not path.is_file():
        raise UserError(f"--source={path}: not found; pass {dataset}_train.tfrecords")
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


def read(
    path: pathlib.Path, features: Features, start: int, stop: int
) -> Iterator[tuple[int, dict[str, np.ndarray]]]:
    """Yield the indices and values of the records in `range(start, stop)`.

    Memory use is independent of the file size.

    Raises:
      SourceError: The file is truncated, corrupt or of another dataset, or has too few
        records.
    """
    for index, record in _records(path, start, stop):
        yield index, _parse_at(path, index, record, features)


def _parse_at(path, index, record, features):
    try:
        return parse(record, features)
    except ValueError as error:
        raise SourceError(
            f"{path}: record {index} {error}; pass the file of the dataset"
        ) from None


def _records(path, start, stop) -> Iterator[tuple[int, bytes]]:
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


def identify(path: pathlib.Path, features: Features) -> dict[str, str | int]:
    """Return the identity of a file, from its size and first record.

    Raises:
      SourceError: The file is not of the dataset.
    """
    ((_, record),) = _records(path, 0, 1)
    _parse_at(path, 0, record, features)
    return {
        "file": path.name,
        "bytes": path.stat().st_size,
        "first_record": hashlib.sha256(record).hexdigest(),
    }


def examples(
    split: str,
    start: int,
    *,
    path: pathlib.Path,
    features: Features,
    convert: Callable[[dict[str, np.ndarray]], Example],
    splits: Mapping[str, int],
) -> Iterator[Example]:
    """Yield the examples of a split, starting at `start`.

    Raises:
      SourceError: `read` fails, or `convert` raises ValueError for a record.
    """
    first = offsets(splits)[split]
    for index, values in read(path, features, first + start, first + splits[split]):
        try:
            example = convert(values)
        except ValueError as error:
            raise SourceError(
                f"{path}: record {index} has {error}; download the file again"
            ) from None
        yield example


def offsets(splits: Mapping[str, int]) -> dict[str, int]:
    """Return the first record of each split; splits are consecutive in the file."""
    ends = np.cumsum([0, *splits.values()]).tolist()
    return dict(zip(splits, ends, strict=False))


def visible_objects(values: dict[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Return the entities that are objects, `[M]`, and the label of each entity."""
    visible = 1 + np.flatnonzero(values["visibility"][1:] > 0.5)
    labels = np.zeros(len(values["visibility"]), np.uint8)
    labels[visible] = np.arange(1, len(visible) + 1)
    return visible, labels


def source(
    options: Options,
    dataset: str,
    features: Features,
    splits: dict[str, int],
    convert: Callable[[dict[str, np.ndarray]], Example],
    settings: dict[str, Any],
    **rest,
) -> Source:
    """Return the source of a TFRecord file.

    Args:
      options: Command-line options; `source` and `splits` override the defaults.
      dataset: Name of the dataset.
      features: Features of a record.
      splits: Published number of examples by split.
      convert: Function that converts the values of a record to an example.
      settings: Settings of the dataset.
      **rest: Other attributes of `Source`.

    Raises:
      UserError: The file is missing or of another dataset.
    """
    path = find(options, dataset)
    splits = dict(options.splits or splits)
    return Source(
        dataset=dataset,
        source=identify(path, features),
        settings=settings | {"first_record": offsets(splits)},
        splits=splits,
        examples=functools.partial(
            examples, path=path, features=features, convert=convert, splits=splits
        ),
        **rest,
    )
