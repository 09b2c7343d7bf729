"""CLEVR with masks (Kabra et al., multi-object datasets, 2019): CLEVR6 and CLEVR10.

https://github.com/google-deepmind/multi_object_datasets: one gzip TFRecord file of
100,000 scenes of 240 x 320 pixels. Entity 0 of each scene is the background; entities
with `visibility` 0 are padding. `shape`, `size`, `material` and `color` are codes that
start at 1 for objects and are 0 for other entities (issue 9 of that repository prints
the first scene). The meaning of the codes is not published. That of the size follows
from `z`, the radius of an object: 1 is large, 2 is small. The other codes are numbered
by first appearance in the file and stored as code - 1. These indices have the range of
the vocabularies in `properties`, but the names there do not apply.
"""

import functools

import numpy as np

from .. import properties
from . import records
from .base import Example, Options, Source, object_fields, pad

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
# Locatello et al. (2020) train on the first 70,000 scenes.
_SPLITS = {"train": 70_000, "validation": 15_000, "test": 15_000}
_PER_SHARD = 64


def convert(values: dict[str, np.ndarray], size: int) -> Example:
    """Convert the values of a record (`FEATURES`) to an example.

    Image and masks are center-cropped to 192 x 192 pixels. Output pixel i is source
    pixel floor(i * 192 / size). Objects keep the order of the file. They count even if
    they lie outside the crop, because CLEVR6 is defined by the objects of the scene.

    Returns:
      The fields of `base.object_fields`; `pixel_coords` in pixels of the stored image.

    Raises:
      ValueError: The code of an object is out of range.
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
        example[name] = pad(column, MAX_OBJECTS, -1, "int8")
    offset, scale = np.array([_LEFT, _TOP, 0]), np.array([size / _CROP] * 2 + [1])
    floats = {
        "position": np.stack([values[axis] for axis in "xyz"], -1),
        "pixel_coords": (values["pixel_coords"] - offset) * scale,
        "rotation": values["rotation"],
        "visibility": values["visibility"],
    }
    for name, column in floats.items():
        example[name] = pad(column[visible], MAX_OBJECTS, 0, "float32")
    return example


def build(options: Options) -> Source:
    """Return the source of the file `--source`, downloaded if not given."""
    options.reject()
    size = options.check_image_size(128, 16, _CROP)
    return records.source(
        options,
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
