"""What COCO and Pascal VOC share: label maps of photographs, cropped and numbered.

A pixel that the annotators left open, or that two objects claim, is -1: it is in no
measure. That no object wins follows the evaluation of DINOSAUR's authors, whose code
has it as `ignore_overlaps`.
"""

import dataclasses
import functools
import pathlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image

from sanorm_jax.core.errors import UserError

from . import files
from .base import Example, Options, Source, SourceError, class_fields
from .records import pad

IGNORED = -1
# Of the images and labels of the evaluations that mBO is compared by (SPOT, CVPR 2024).
DEFAULT_SIZE = 320
# A label is a byte with a sign.
MOST_OBJECTS = 127
_PER_SHARD = 64


def middle(labels: np.ndarray, size: int) -> np.ndarray:
    """Return the middle square of labels [H, W], of each pixel's centre, [S, S].

    The square is that of `files.square`; the source of pixel i of S is
    floor((i + 1/2) side / S).
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
    """Return the fields of a photograph.

    Objects of which no pixel is left, beyond the middle square or ignored, are left out
    and the others numbered anew, in their order.

    Args:
      image: RGB, of the labels' size.
      labels: [H, W], 0 the background, i + 1 object i, -1 ignored.
      category: of each object, an index.
      image_id: the dataset's number of the image.
      size: of the result, S pixels a side.
      max_objects: rows of the columns of objects.
    """
    labels = middle(labels, size)
    kept = [i for i in range(len(category)) if np.any(labels == i + 1)]
    # By old label, the background and, at the end, -1 included.
    number = np.zeros(len(category) + 2, np.int8)
    number[[i + 1 for i in kept]] = np.arange(1, len(kept) + 1)
    number[-1] = IGNORED
    return {
        "image": files.square(image, None, size),
        "segmentation": number[labels],
        "num_objects": np.array(len(kept), np.int32),
        "category": pad(
            np.array([category[i] for i in kept], np.int32), max_objects, -1, "int32"
        ),
        "visibility": pad(np.ones(len(kept)), max_objects, 0, "float32"),
        "image_id": np.array(image_id, np.int64),
    }


def read_image(path: pathlib.Path, width: int, height: int) -> Image.Image:
    """Return an image as its labels see it, of `width` x `height` pixels.

    They are of the pixels as stored; only where these have other sides than the labels
    and the image turned upright has the same, it is that.

    Raises:
      SourceError: missing, corrupt, or of another size.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise SourceError(
            f"{path}: unreadable ({error.strerror}); get it again"
        ) from None
    for upright in (False, True):
        image = files.decode(content, str(path), upright=upright)
        if image.size == (width, height):
            return image
    found = " x ".join(map(str, image.size))
    raise SourceError(f"{path}: is {found} pixels, its labels {width} x {height}")


@dataclasses.dataclass(frozen=True)
class Split:
    """A split, as far as it is asked for.

    Attributes:
      num_published: images that the dataset has in it.
      num_objects: of each image asked for.
      missing: the first file of these that is not there, None if all are.
      version: what tells its labels from others, and what of them is left out.
      load: `load(index)` returns image, labels, categories and number of an image.
    """

    num_published: int
    num_objects: list[int]
    missing: str | None
    version: Mapping[str, Any]
    load: Callable[[int], tuple[Image.Image, np.ndarray, list[int], int]]


def check_options(options: Options, dataset: str, splits: Sequence[str]) -> int:
    """Return the side of the stored images; UserError for options out of range."""
    options.refuse(dataset, "min_objects", "max_objects", "seed")
    size = DEFAULT_SIZE if options.image_size is None else options.image_size
    if not 16 <= size <= 1024:
        raise UserError(f"--image_size={size}: must be 16 to 1024")
    for name in options.splits or ():
        if name not in splits:
            raise UserError(f"--splits: {dataset} has {', '.join(splits)}, not {name}")
    return size


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
    """Return the source of the splits that were read.

    Args:
      options: may limit the splits, to their first images.
      dataset: its name.
      splits: by name.
      size: of the stored images.
      categories: names of the classes, by index.
      version: what it is read from, for the manifest.
      rules: which pixels are ignored, and what of the dataset is left out.

    Raises:
      UserError: more examples asked for than there are.
      SourceError: a file is missing, or an image has more objects than labels hold.
    """
    for name, split in splits.items():
        if (options.splits or {}).get(name, 0) > split.num_published:
            raise UserError(
                f"--splits={name}:{options.splits[name]}: has {split.num_published} "
                "images"
            )
        if split.missing:
            raise SourceError(
                f"{split.missing}: missing, though {name} names it; get it again"
            )
    most = max(1, *(max(split.num_objects, default=0) for split in splits.values()))
    if most > MOST_OBJECTS:
        raise SourceError(
            f"--source={options.source}: an image has {most} objects, {MOST_OBJECTS} "
            "can be labelled"
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
            "max_objects": most,
            "categories": list(categories),
            "crop": "the middle square",
            "resize": files.RESIZE,
            "resize_labels": "nearest, source index floor((i + 1/2) side / image_size)",
            **rules,
        },
        fields=class_fields(size, most, "int8") | {"image_id": ((), "int64")},
        splits=counts,
        examples_per_shard=_PER_SHARD,
        file_an_example=True,
        examples=functools.partial(
            _examples, splits, counts, size=size, max_objects=most
        ),
    )


def _examples(splits, counts, name: str, start: int, **shape) -> Iterator[Example]:
    def load(index):
        image, labels, category, number = splits[name].load(index)
        return example(image, labels, category, image_id=number, **shape)

    return files.load_all(load, range(start, counts[name]))
