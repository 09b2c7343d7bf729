"""Tetrominoes (Kabra et al., multi-object datasets, 2019).

https://github.com/google-deepmind/multi_object_datasets: one gzip TFRecord file of
1,000,000 images of 35 x 35 pixels. Each shows three tetrominoes of 17 shapes (codes 1
to 17, one per orientation) and six colors. Entity 0 is the background.
"""

import numpy as np

from sanorm_jax.core.errors import UserError

from . import records
from .base import Example, Options, Source, pad

MAX_OBJECTS = 3
_ENTITIES = MAX_OBJECTS + 1
SIZE = 35
FEATURES = {
    "image": ((SIZE, SIZE, 3), "byte"),
    "mask": ((_ENTITIES, SIZE, SIZE), "byte"),
    "x": ((_ENTITIES,), "float"),
    "y": ((_ENTITIES,), "float"),
    "shape": ((_ENTITIES,), "float"),
    "color": ((_ENTITIES, 3), "float"),
    "visibility": ((_ENTITIES,), "float"),
}
# The store holds the index of a color; the file holds RGB values in [0, 1].
COLORS = ("red", "green", "blue", "yellow", "magenta", "cyan")
RGB = np.array(
    [[1, 0, 0], [0, 1, 0], [0, 0, 1], [1, 1, 0], [1, 0, 1], [0, 1, 1]], np.float32
)
_SPLITS = {"train": 700_000, "validation": 150_000, "test": 150_000}
_PER_SHARD = 1024


def fields(max_objects: int) -> dict[str, tuple]:
    """Return shape and dtype of each field, with `max_objects` per-object rows."""
    M = (max_objects,)
    return {
        "image": ((SIZE, SIZE, 3), "uint8"),
        "segmentation": ((SIZE, SIZE), "uint8"),
        "num_objects": ((), "int32"),
        "shape": (M, "int8"),
        "color": (M, "int8"),
        "pixel_coords": ((*M, 3), "float32"),
        "visibility": (M, "float32"),
    }


def example(
    image, segmentation, shape, color, pixel_coords, visibility, max_objects
) -> Example:
    """Return the fields of an image, with columns padded to `max_objects` rows."""
    columns = {
        "shape": (shape, -1, "int8"),
        "color": (color, -1, "int8"),
        "pixel_coords": (pixel_coords, 0, "float32"),
        "visibility": (visibility, 0, "float32"),
    }
    return {
        "image": image,
        "segmentation": segmentation,
        "num_objects": np.array(len(shape), np.int32),
    } | {
        name: pad(column, max_objects, fill, dtype)
        for name, (column, fill, dtype) in columns.items()
    }


def convert(values: dict[str, np.ndarray]) -> Example:
    """Convert the values of a record (`FEATURES`) to an example.

    Returns:
      The `image`, `segmentation` and `num_objects`, and per object in the order of the
      file: `shape`, its code - 1; `color`, an index into `COLORS`; `pixel_coords`, x
      and y in pixels, and 0; and `visibility`.

    Raises:
      ValueError: The color of an object is none of the six.
    """
    visible, labels = records.visible_objects(values)
    # [objects, colors]
    difference = np.abs(values["color"][visible, None] - RGB).max(-1)
    if len(visible) and difference.min(-1).max() > 0.01:
        raise ValueError(f"colors {values['color'][visible].tolist()}")
    flat = np.zeros(len(visible), np.float32)
    pixels = np.stack([values["x"][visible], values["y"][visible], flat], -1)
    return example(
        values["image"],
        labels[values["mask"].argmax(0)],
        values["shape"][visible] - 1,
        difference.argmin(-1),
        pixels,
        values["visibility"][visible],
        MAX_OBJECTS,
    )


def check_image_size(options: Options):
    """Raise `UserError` unless the images have the size of the dataset."""
    if options.image_size not in (None, SIZE):
        raise UserError(
            f"--image_size={options.image_size}: {options.dataset} has a fixed size; "
            f"choose {SIZE}"
        )


def build(options: Options) -> Source:
    """Return the source of the file `--source`, downloaded if not given."""
    options.reject()
    check_image_size(options)
    return records.source(
        options,
        FEATURES,
        _SPLITS,
        convert=convert,
        settings={"image_size": SIZE, "max_objects": MAX_OBJECTS},
        fields=fields(MAX_OBJECTS),
        examples_per_shard=_PER_SHARD,
    )
