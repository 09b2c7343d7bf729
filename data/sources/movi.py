"""MOVi-C, D and E (Greff et al., "Kubric", CVPR 2022): videos of scanned objects.

TFDS reads a builder folder or the public bucket. Labels are constant over a video: 0 is
the background, and label i + 1 is row i of the per-object columns.
"""

import functools
import os
import urllib.error
import urllib.request
from collections.abc import Iterator

import numpy as np
import tensorflow as tf
import tensorflow_datasets as tfds

from sanorm_jax.core.errors import UserError

from .base import Example, Options, Source, SourceError, class_fields, pad

BUCKET = "kubric-public/tfds"
# MOVi-C drops 3 to 10 objects; MOVi-D and E drop 1 to 3 among 10 to 20 static ones.
MAX_OBJECTS = {"movi_c": 10, "movi_d": 23, "movi_e": 23}
# The published default, which the original implementation uses, comes first.
_SIZES = (256, 128)
_PROBE_TIMEOUT_S = 20.0
# Depth, flow, normals and others make up most of the bytes and are not decoded.
_DECODED = {
    "video": True,
    "segmentations": True,
    "metadata": {"num_instances"},
    "instances": {"category"},
}


def _folder(options: Options) -> str:
    """Return the builder folder: `--source`, a folder below it, or the bucket."""
    dataset = options.dataset
    sizes = _SIZES if options.image_size is None else (options.image_size,)
    configs = [f"{size}x{size}" for size in sizes]
    if options.source is None:
        inner = f"{BUCKET}/{dataset}/{configs[0]}/1.0.0"
        url = f"https://storage.googleapis.com/{inner}/dataset_info.json"
        # TensorFlow takes a minute to fail on an unreachable bucket.
        try:
            urllib.request.urlopen(url, timeout=_PROBE_TIMEOUT_S).close()
        except (OSError, urllib.error.URLError) as error:
            raise UserError(
                f"{url}: not reachable ({getattr(error, 'reason', error)}); pass the "
                "folder of the downloaded dataset with --source"
            ) from None
        return f"gs://{inner}"
    below = [
        f"{prefix}{config}/*" for prefix in (f"{dataset}/", "") for config in configs
    ]
    found = [options.source]
    for pattern in (*below, "*"):
        found += sorted(options.source.glob(pattern), reverse=True)
    for folder in found:
        if (folder / "dataset_info.json").is_file():
            return str(folder)
    raise UserError(
        f"--source={options.source}: contains no dataset_info.json; pass a folder such "
        f"as {dataset}/{configs[0]}/1.0.0"
    )


def _builder(folder: str, dataset: str) -> tfds.core.DatasetBuilder:
    try:
        builder = tfds.builder_from_directory(folder)
        features = builder.info.features
        frames, height, *image = features["video"].shape
        found = builder.name
        _ = features["instances"]["category"].names, features["segmentations"]
    except Exception as error:  # TFDS does not wrap the errors of its parsers.
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise SourceError(
            f"{folder}: not a MOVi builder folder ({reason}); download it again"
        ) from None
    if found != dataset:
        raise SourceError(f"{folder}: contains {found}; pass the folder of {dataset}")
    if image != [height, 3] or not frames:
        raise SourceError(
            f"{folder}: frames of shape {[height, *image]} are not square; pass a "
            "published MOVi folder"
        )
    return builder


def _damaged_file(builder, split: str) -> str:
    """Return the first record file of a split that is unreadable or truncated."""
    split_info = builder.info.splits[split]
    files = zip(split_info.filepaths, split_info.shard_lengths, strict=True)
    for path, count in files:
        try:
            found = sum(1 for _ in tf.data.TFRecordDataset(os.fspath(path)))
        except tf.errors.OpError:
            found = None
        if found != count:
            return os.fspath(path)
    return str(builder.data_path)


def _examples(
    split: str, start: int, *, folder: str, dataset: str, stop: dict[str, int]
) -> Iterator[Example]:
    """Yield the frames of a split from `start`, the first frame of a video."""
    builder = _builder(folder, dataset)
    num_frames = builder.info.features["video"].shape[0]
    first, last = start // num_frames, stop[split] // num_frames
    options = tf.data.Options()
    options.threading.private_threadpool_size = os.cpu_count()
    videos = builder.as_dataset(
        split=tfds.core.ReadInstruction(split, from_=first, to=last, unit="abs"),
        decoders=tfds.decode.PartialDecoding(_DECODED),
        # Sequential reading in file order makes the frames resumable.
        read_config=tfds.ReadConfig(
            options=options, interleave_cycle_length=1, try_autocache=False
        ),
        shuffle_files=False,
    )
    number = first
    try:
        for video in tfds.as_numpy(videos.prefetch(1)):
            yield from _frames(video, number, MAX_OBJECTS[dataset])
            number += 1
    except (tf.errors.OpError, ValueError) as error:
        reason = str(error) if type(error) is ValueError else "unreadable"
        raise SourceError(
            f"{_damaged_file(builder, split)}: damaged (video {number} of {split}: "
            f"{reason}); download it again"
        ) from None
    if number < last:
        raise SourceError(
            f"{_damaged_file(builder, split)}: truncated ({split} ends after {number} "
            f"of {last} videos); download it again"
        )


def _frames(video: dict, number: int, max_objects: int) -> Iterator[Example]:
    count = int(video["metadata"]["num_instances"])
    category = np.asarray(video["instances"]["category"])
    if count > max_objects or len(category) != count:
        raise ValueError(f"{count} instances, {len(category)} categories")
    segmentations = video["segmentations"][..., 0]
    if segmentations.max(initial=0) > count:
        raise ValueError(f"labels above its {count} instances")
    columns = {
        "num_objects": np.array(count, np.int32),
        "category": pad(category, max_objects, -1, "int32"),
        "visibility": pad(np.ones(count), max_objects, 0, "float32"),
        "video": np.array(number, np.int32),
    }
    pairs = zip(video["video"], segmentations, strict=True)
    for frame, (image, segmentation) in enumerate(pairs):
        yield columns | {
            "image": image,
            "segmentation": segmentation,
            "frame": np.array(frame, np.int32),
        }


def build(options: Options) -> Source:
    """Return the source of a builder folder; each video frame is an example.

    The bucket has images of 256 (default) and 128 pixels.
    """
    dataset = options.dataset
    options.reject()
    wanted = options.image_size
    if wanted not in (None, *_SIZES):
        raise UserError(
            f"--image_size={wanted}: not available for {dataset}; choose 256 or 128"
        )
    folder = _folder(options)
    builder = _builder(folder, dataset)
    num_frames, size, *_ = builder.info.features["video"].shape
    if wanted not in (None, size):
        raise UserError(
            f"--image_size={wanted}: {folder} has frames of {size} x {size} pixels, "
            f"not {wanted} x {wanted} pixels; remove the option"
        )
    published = {
        name: split.num_examples * num_frames
        for name, split in builder.info.splits.items()
    }
    options.check_splits(published)
    options.check_videos(num_frames)
    splits = dict(options.splits or published)
    max_objects = MAX_OBJECTS[dataset]
    return Source(
        source={
            "builder": builder.info.full_name,
            "bytes": {n: s.num_bytes for n, s in builder.info.splits.items()},
        },
        settings={
            "image_size": size,
            "max_objects": max_objects,
            "num_frames": num_frames,
            "categories": builder.info.features["instances"]["category"].names,
        },
        fields={
            **class_fields(size, max_objects, "uint8"),
            "video": ((), "int32"),
            "frame": ((), "int32"),
        },
        splits=splits,
        examples_per_shard=num_frames,
        examples=functools.partial(
            _examples, folder=folder, dataset=dataset, stop=splits
        ),
    )
