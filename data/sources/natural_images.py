"""Label maps of natural images, shared by COCO and Pascal VOC.

Pixels without a definite annotation (borders and crowds) and pixels of two objects have
label -1, which every metric ignores. Overlaps are ignored as in the evaluation of
DINOSAUR's authors (`ignore_overlaps` in their code).
"""

import dataclasses
import functools
import pathlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image

from . import files
from .base import Example, Options, Source, SourceError, class_fields, pad

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


def example(
    image: Image.Image,
    labels: np.ndarray,
    category: Sequence[int],
    *,
    image_id: int,
    size: int,
    max_objects: int,
) -> Example:
    """Return the fields of a natural image.

    Objects without a visible pixel in the center crop are removed, and the others are
    renumbered in order.

    Args:
      image: RGB image of the size of the labels.
      labels: Label map, `[H, W]`: 0 for the background, i + 1 for object i, -1 for
        ignored pixels.
      category: Class index of each object.
      image_id: Identifier of the image in the dataset.
      size: Side of the result in pixels.
      max_objects: Rows of the per-object columns.
    """
    labels = middle(labels, size)
    kept = [i for i in range(len(category)) if np.any(labels == i + 1)]
    # New labels by old label; the last entry is that of label -1.
    relabel = np.zeros(len(category) + 2, np.int8)
    relabel[[i + 1 for i in kept]] = np.arange(1, len(kept) + 1)
    relabel[-1] = IGNORED
    return {
        "image": files.square(image, None, size),
        "segmentation": relabel[labels],
        "num_objects": np.array(len(kept), np.int32),
        "category": pad(
            np.array([category[i] for i in kept], np.int32), max_objects, -1, "int32"
        ),
        "visibility": pad(np.ones(len(kept)), max_objects, 0, "float32"),
        "image_id": np.array(image_id, np.int64),
    }


def read_image(path: pathlib.Path, width: int, height: int) -> Image.Image:
    """Return an image in the orientation of its labels.

    Labels usually refer to the stored pixels. The EXIF orientation is applied only if
    the stored pixels do not have the size of the labels and the rotated ones do.

    Args:
      path: File of the image.
      width: Width of the labels.
      height: Height of the labels.

    Raises:
      SourceError: The image is missing, corrupt or of another size.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise SourceError(
            f"{path}: unreadable ({error.strerror}); download it again"
        ) from None
    for upright in (False, True):
        image = files.decode(content, str(path), upright=upright)
        if image.size == (width, height):
            return image
    found = " x ".join(map(str, image.size))
    raise SourceError(
        f"{path}: is {found} pixels, but its labels are {width} x {height}; download "
        "both again"
    )


@dataclasses.dataclass(frozen=True)
class Split:
    """The selected images of a split.

    Attributes:
      num_published: Number of images in the published split.
      num_objects: Number of objects of each selected image.
      missing: First missing file; None if all exist.
      version: Identity of the annotations, for the manifest.
      load: Function `load(index)` that returns image, labels, categories and id.
    """

    num_published: int
    num_objects: list[int]
    missing: str | None
    version: Mapping[str, Any]
    load: Callable[[int], tuple[Image.Image, np.ndarray, list[int], int]]


def check_options(options: Options, dataset: str, splits: Sequence[str]) -> int:
    """Return the side of the stored images in pixels.

    Raises:
      UserError: An option is out of range or not used by the dataset.
    """
    options.reject(dataset)
    options.check_splits(dataset, dict.fromkeys(splits))
    return options.check_image_size(DEFAULT_SIZE, 16, 1024)


def source(
    options: Options,
    dataset: str,
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
      dataset: Name of the dataset.
      splits: Splits by name.
      size: Side of the stored images in pixels.
      categories: Class names by index.
      version: Identity of the original data, for the manifest.
      rules: Description of the ignored pixels, for the settings.

    Raises:
      UserError: More examples are requested than exist.
      SourceError: A file is missing, or an image has more objects than labels can
        represent.
    """
    options.check_splits(dataset, {n: s.num_published for n, s in splits.items()})
    for name, split in splits.items():
        if split.missing:
            raise SourceError(
                f"{split.missing}: missing, although split {name} lists it; download "
                "it again"
            )
    all_counts = [count for split in splits.values() for count in split.num_objects]
    max_objects = max([1, *all_counts])
    if max_objects > MAX_OBJECTS:
        raise SourceError(
            f"--source={options.source}: an image has {max_objects} objects, but label "
            f"maps hold {MAX_OBJECTS}; remove it from the annotations"
        )
    counts = {name: len(split.num_objects) for name, split in splits.items()}
    return Source(
        dataset=dataset,
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
        splits=counts,
        examples_per_shard=_PER_SHARD,
        file_an_example=True,
        examples=functools.partial(
            _examples, splits, counts, size=size, max_objects=max_objects
        ),
    )


def _examples(splits, counts, name: str, start: int, **shape) -> Iterator[Example]:
    def load(index):
        image, labels, category, number = splits[name].load(index)
        return example(image, labels, category, image_id=number, **shape)

    return files.load_all(load, range(start, counts[name]))
