"""Reads the published multi-object datasets: gzip TFRecords, streamed.

Format: https://github.com/google-deepmind/multi_object_datasets, `clevr_with_masks.py`
and `tetrominoes.py`. Each pixel is a byte string of its own there, so that TensorFlow's
parser takes 70 ms for a scene of CLEVR; here the list is taken as one field of bytes,
and every third byte is a pixel.
"""

import functools
import hashlib
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
)

from sanorm_jax.core import console, lazy
from sanorm_jax.core.errors import UserError

from .base import Example, Options, Source, SourceError

URL = "https://storage.googleapis.com/multi-object-datasets"

# Features by name: shape and what its values are, `byte` or `float`.
Features = Mapping[str, tuple[Sequence[int], str]]

_BUFFER_BYTES = 8 << 20
_CHUNK_BYTES = 1 << 20
_PREFETCHED = 4


def _example_class():
    """Return `tf.train.Example` with its lists of values left as bytes."""
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
    """Return the values [n] of a feature; ValueError if they are of another kind."""
    if kind == "byte":
        # [n, 3]: tag, length 1, the byte.
        rows = np.frombuffer(feature.bytes_list, np.uint8).reshape(-1, 3)
        if not ((rows[:, 0] == 0x0A) & (rows[:, 1] == 1)).all():
            raise ValueError("are no single bytes")
        return rows[:, 2]
    packed = lazy.tensorflow().train.FloatList.FromString(feature.float_list)
    return np.asarray(packed.value, np.float32)


def parse(record: bytes, features: Features) -> dict[str, np.ndarray]:
    """Return the values of a serialized example, uint8 or float32, by name.

    Raises:
      ValueError: a feature is missing or of another shape or kind.
    """
    try:
        found = _Example.FromString(record).features.feature
    except message.DecodeError:
        raise ValueError("is no tf.train.Example") from None
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
    """Return the file of a dataset: `--source`, or its download."""
    name = f"{dataset}_train.tfrecords"
    path = options.source
    if path is None:
        return _download(f"{URL}/{dataset}/{name}", options.data_dir / "downloads")
    if path.is_dir():
        path = path / name
    if not path.is_file():
        raise UserError(f"--source={path}: there is no such file")
    return path


def _download(url: str, folder: pathlib.Path) -> pathlib.Path:
    """Return a file, downloaded unless it is there; it appears once it is complete."""
    name = url.rsplit("/", 1)[1]
    logging.info("downloading %s to %s, unless it is there", url, folder)
    pooch.get_logger().setLevel("WARNING")
    downloader = pooch.HTTPDownloader(
        progressbar=console.CONSOLE.is_terminal, chunk_size=_CHUNK_BYTES
    )
    try:
        pooch.retrieve(url, None, fname=name, path=folder, downloader=downloader)
    except OSError as error:  # those of requests among them
        raise UserError(
            f"{url}: not downloaded to {folder} ({error.strerror or error}); start "
            f"again, or download it by other means (`curl -C - -O {url}` resumes) and "
            "pass the file by --source"
        ) from None
    return folder / name


def read(
    path: pathlib.Path, features: Features, start: int, stop: int
) -> Iterator[tuple[int, dict[str, np.ndarray]]]:
    """Yield number and values of the records from `start` to before `stop`.

    Memory does not grow with the file.

    Raises:
      SourceError: truncated or corrupt, of another dataset, or of fewer records.
    """
    for index, record in _records(path, start, stop):
        yield index, _parse_at(path, index, record, features)


def _parse_at(path, index, record, features):
    try:
        return parse(record, features)
    except ValueError as error:
        raise SourceError(
            f"{path}: record {index} {error}; this is another dataset's file"
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
            f"{path}: truncated, corrupt or no gzip TFRecord file (after {index} "
            "records); get it again"
        ) from None
    if index < stop:
        raise SourceError(
            f"{path}: has {index} records, the splits need {stop}; get it again, or "
            "ask for fewer by --splits"
        )


def identify(path: pathlib.Path, features: Features) -> dict[str, str | int]:
    """Return what tells the file from others, having read its first record.

    Raises:
      SourceError: this is not a file of the dataset.
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
    """Yield a split's examples from `start` on; splits follow each other in the file.

    Raises:
      SourceError: what `read` raises, or `convert` refuses a record by ValueError.
    """
    first = offsets(splits)[split]
    for index, values in read(path, features, first + start, first + splits[split]):
        try:
            example = convert(values)
        except ValueError as error:
            raise SourceError(f"{path}: record {index} has {error}") from None
        yield example


def offsets(splits: Mapping[str, int]) -> dict[str, int]:
    """Return the first record of each split; they follow each other in the file."""
    ends = np.cumsum([0, *splits.values()]).tolist()
    return dict(zip(splits, ends, strict=False))


def pad(values: np.ndarray, count: int, fill: float, dtype: str) -> np.ndarray:
    """Return values [n, ...] as a column [count, ...], filled up."""
    column = np.full((count, *values.shape[1:]), fill, dtype)
    column[: len(values)] = values
    return column


def visible_objects(values: dict[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Return the entities [M] that are objects, and each entity's label from 0 on."""
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
    """Return the source of one file of records.

    Args:
      options: may name the file and the splits.
      dataset: its name.
      features: of a record.
      splits: as published.
      convert: of a record's values.
      settings: of the dataset.
      **rest: of `Source`.

    Raises:
      UserError: the file is missing or another's.
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
