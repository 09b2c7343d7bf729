"""CLEVR with masks (Kabra et al., multi-object datasets, 2019): CLEVR6 and CLEVR10.

https://github.com/google-deepmind/multi_object_datasets, one gzip TFRecord file of
100,000 scenes of 240 x 320 pixels. Entity 0 of each scene is the background; entities
of `visibility` 0 fill up. In `shape`, `size`, `material` and `color` 0 stands for
neither and objects have codes from 1 on (issue 9 there prints the first scene). What
the codes mean is not published. Size follows from `z`, an object's radius: 1 is large,
2 small. The others are numbered by first appearance in the file; they are stored as
code - 1, so that their indices are those of `properties` in number, not in name.
"""

import functools

import numpy as np

from sanorm_jax.core.errors import UserError

from .. import properties
from . import records
from .base import Example, Options, Source, object_fields

MAX_OBJECTS = 10
_ENTITIES = MAX_OBJECTS + 1
_HEIGHT, _WIDTH, _CROP = 240, 320, 192
_TOP, _LEFT = (_HEIGHT - _CROP) // 2, (_WIDTH - _CROP) // 2
FEATURES = {
    "image": ((_HEIGHT, _WIDTH, 3), "byte"),
    "mask": ((_ENTITIES, _HEIGHT, _WIDTH), "byte"),
    "x": ((_ENTITIES,), "float"),
    "y": ((_ENTITIES,), "float"),
    "z": ((_ENTITIES,), "float"),
    "pixel_coords": ((_ENTITIES, 3), "float"),
    "rotation": ((_ENTITIES,), "float"),
    "size": ((_ENTITIES,), "byte"),
    "material": ((_ENTITIES,), "byte"),
    "shape": ((_ENTITIES,), "byte"),
    "color": ((_ENTITIES,), "byte"),
    "visibility": ((_ENTITIES,), "float"),
}
# Index in `properties` of code 1, 2, ...
_INDICES = {
    "shape": list(range(len(properties.SHAPES))),
    "size": [properties.SIZES.index(name) for name in ("large", "small")],
    "material": list(range(len(properties.MATERIALS))),
    "color": list(range(len(properties.COLORS))),
}
# Published: training on the first 70,000 scenes (Locatello et al., 2020).
_SPLITS = {"train": 70_000, "validation": 15_000, "test": 15_000}
_PER_SHARD = 64


def convert(values: dict[str, np.ndarray], size: int) -> Example:
    """Return an example from the values of a record (`FEATURES`).

    Image and masks are cropped to the middle 192 x 192 pixels, then of each output
    pixel i the source pixel floor(i * 192 / size) is taken. Objects are numbered in the
    file's order, also those that the crop leaves out: CLEVR6 is a matter of the scene.

    Returns:
      the fields of `base.object_fields`; `pixel_coords` in pixels of the stored image.

    Raises:
      ValueError: an object's code is out of range.
    """
    index = np.arange(size) * _CROP // size
    rows, columns = _TOP + index, _LEFT + index
    visible, labels = records.visible_objects(values)
    # [entities, size, size]
    masks = values["mask"][:, rows[:, None], columns]
    example = {
        "image": values["image"][rows[:, None], columns],
        "segmentation": labels[masks.argmax(0)],
        "num_objects": np.array(len(visible), np.int32),
    }
    for name, indices in _INDICES.items():
        codes = values[name][visible].astype(int)
        if len(codes) and (codes.min() < 1 or codes.max() > len(indices)):
            raise ValueError(f"{name} codes {codes.tolist()}")
        column = np.array(indices)[codes - 1]
        example[name] = records.pad(column, MAX_OBJECTS, -1, "int8")
    offset, scale = np.array([_LEFT, _TOP, 0]), np.array([size / _CROP] * 2 + [1])
    floats = {
        "position": np.stack([values[axis] for axis in "xyz"], -1),
        "pixel_coords": (values["pixel_coords"] - offset) * scale,
        "rotation": values["rotation"],
        "visibility": values["visibility"],
    }
    for name, column in floats.items():
        example[name] = records.pad(column[visible], MAX_OBJECTS, 0, "float32")
    return example


def build(options: Options) -> Source:
    """Return the source of the file `--source`, or of its download.

    Raises:
      UserError: an option out of range; the file is missing or another's.
    """
    options.refuse("clevr_with_masks", "min_objects", "max_objects", "seed")
    size = 128 if options.image_size is None else options.image_size
    if not 16 <= size <= _CROP:
        raise UserError(f"--image_size={size}: must be 16 to {_CROP}, the crop's side")
    return records.source(
        options,
        "clevr_with_masks",
        FEATURES,
        _SPLITS,
        convert=functools.partial(convert, size=size),
        settings={
            "image_size": size,
            "max_objects": MAX_OBJECTS,
            "crop": [_TOP, _TOP + _CROP, _LEFT, _LEFT + _CROP],
            "resize": "nearest, source index floor(i * 192 / image_size)",
        },
        fields=object_fields(size, MAX_OBJECTS),
        examples_per_shard=_PER_SHARD,
    )
