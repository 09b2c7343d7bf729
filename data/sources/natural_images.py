"""Label maps of natural images, shared by COCO and Pascal VOC.

Pixels without a definite annotation (borders and crowds) and pixels of two objects have
label -1, which every metric ignores. Overlaps are ignored as in the evaluation of
DINOSAUR's authors (`ignore_overlaps` in their code).
"""

import dataclasses
import functools
import pathlib
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image

from . import files
from .base import Example, Options, Source, SourceError, class_fields, pad, read_bytes

IGNORED = -1
# Resolution of the evaluations that published mBO values use (SPOT, CVPR 2024).
DEFAULT_SIZE = 320
# Labels are int8.
MAX_OBJECTS = 127
_PER_SHARD = 64


def middle(labels: np.ndarray, size: int) -> np.ndarray:
    """Return the center crop of labels `[H, W]`, resized to `[size, size]`.

    The crop matches `files.square`. The resampling is nearest-neighbor: pixel i is
    source pixel floor((i + 1/2) * side / size).
    """
    height, width = labels.shape
    side = min(height, width)
    index = ((np.arange(size) + 0.5) * side / size).astype(int)
    rows, columns = (height - side) // 2 + index, (width - side) // 2 + index
    return labels[rows[:, None], columns]


def read_image(path: pathlib.Path, width: int, height: int) -> Image.Image:
    """Return an image in the orientation of its labels.

    Labels, of the given size, usually refer to the stored pixels. The EXIF orientation
    is applied only if the stored pixels do not have that size and the rotated ones do.

    Raises:
      SourceError: The image is missing, corrupt or of another size.
    """
    content = read_bytes(path)
    for upright in (False, True):
        image = files.decode(content, str(path), upright=upright)
        if image.size == (width, height):
            return image
    found = " x ".join(map(str, image.size))
    raise SourceError(
        f"{path}: is {found} pixels, but its labels are {width} x {height}; download "
        "both again"
    )


def missing(path: pathlib.Path, split: str) -> SourceError:
    """Return the error for a file or folder that does not exist."""
    return SourceError(
        f"{path}: missing, although split {split} lists it; download it again"
    )


@dataclasses.dataclass(frozen=True)
class Split:
    """The selected images of a split.

    Attributes:
      num_published: Number of images in the published split.
      num_objects: Number of objects of each selected image.
      version: Identity of the annotations, for the manifest.
      load: Function `load(index)` that returns the RGB image, its label map `[H, W]` (0
        for the background, i + 1 for object i, -1 for ignored pixels), the class index
        of each object, and the identifier of the image in the dataset.
    """

    num_published: int
    num_objects: list[int]
    version: Mapping[str, Any]
    load: Callable[[int], tuple[Image.Image, np.ndarray, list[int], int]]


def check_options(options: Options, splits: Collection[str]) -> int:
    """Return the side of the stored images in pixels; check the options."""
    options.reject()
    options.check_splits(dict.fromkeys(splits))
    return options.check_image_size(DEFAULT_SIZE, 16, 1024)


def source(
    options: Options,
    splits: Mapping[str, Split],
    *,
    size: int,
    categories: Sequence[str],
    version: Mapping[str, Any],
    rules: Mapping[str, str],
) -> Source:
    """Return the source of natural images.

    Args:
      options: Command-line options; `splits` limits each split to its first images.
      splits: Splits by name.
      size: Side of the stored images in pixels.
      categories: Class names by index.
      version: Identity of the original data, for the manifest.
      rules: Description of the ignored pixels, for the settings.

    Raises:
      UserError: More examples are requested than exist.
      SourceError: An image has more objects than labels can represent.
    """
    options.check_splits({n: s.num_published for n, s in splits.items()})
    max_objects = max(1, *(max(s.num_objects, default=0) for s in splits.values()))
    if max_objects > MAX_OBJECTS:
        raise SourceError(
            f"--source={options.source}: an image has {max_objects} objects, but label "
            f"maps hold {MAX_OBJECTS}; remove it from the annotations"
        )
    return Source(
        source={
            **version,
            "splits": {
                name: {
                    **split.version,
                    "images_without_objects": split.num_objects.count(0),
                }
                for name, split in splits.items()
            },
        },
        settings={
            "image_size": size,
            "max_objects": max_objects,
            "categories": list(categories),
            "crop": "the middle square",
            "resize": files.RESIZE,
            "resize_labels": "nearest, source index floor((i + 1/2) side / image_size)",
            **rules,
        },
        fields=class_fields(size, max_objects, "int8") | {"image_id": ((), "int64")},
        splits={name: len(split.num_objects) for name, split in splits.items()},
        examples_per_shard=_PER_SHARD,
        file_an_example=True,
        load=functools.partial(
            _load, splits=splits, size=size, max_objects=max_objects
        ),
    )


def _load(
    split: str, index: int, *, splits: Mapping[str, Split], size: int, max_objects: int
) -> Example:
    """Return the fields of an image.

    Objects without a visible pixel in the center crop are removed, and the others are
    renumbered in order.
    """
    image, labels, category, image_id = splits[split].load(index)
    labels = middle(labels, size)
    kept = [i for i in range(len(category)) if np.any(labels == i + 1)]
    # New labels by old label; the last entry is that of label -1.
    relabel = np.zeros(len(category) + 2, np.int8)
    relabel[[i + 1 for i in kept]] = np.arange(1, len(kept) + 1)
    relabel[-1] = IGNORED
    category = np.array([category[i] for i in kept], np.int32)
    return {
        "image": files.square(image, None, size),
        "segmentation": relabel[labels],
        "num_objects": np.array(len(kept), np.int32),
        "category": pad(category, max_objects, -1, "int32"),
        "visibility": pad(np.ones(len(kept)), max_objects, 0, "float32"),
        "image_id": np.array(image_id, np.int64),
    }
