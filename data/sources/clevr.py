"""CLEVR v1.0 (Johnson et al., CVPR 2017): images and scenes, without masks.

The source is `CLEVR_v1.0.zip` or the unpacked folder. The published test split has no
scenes and is not used.
"""

import functools
import json
import pathlib
import zipfile
from collections.abc import Mapping

import numpy as np

from sanorm_jax.core.errors import UserError

from .. import properties
from . import files
from .base import (
    Example,
    Options,
    Source,
    SourceError,
    object_fields,
    pad,
    read_bytes,
)

MAX_OBJECTS = 10
_CROP = 192
_FOLDERS = {"train": "train", "validation": "val"}
_NAMES = {
    "shape": properties.SHAPES,
    "size": properties.SIZES,
    "material": properties.MATERIALS,
    "color": properties.COLORS,
}
_FLOATS = {"position": "3d_coords", "pixel_coords": "pixel_coords"}
_PER_SHARD = 64
_HINT = "--source must be CLEVR_v1.0.zip or its folder"


def _root(source: pathlib.Path) -> pathlib.Path | zipfile.Path:
    """Return the folder `CLEVR_v1.0`, unpacked or in a zip file."""
    if source.is_dir():
        root = source
    elif source.is_file():
        try:
            root = zipfile.Path(source)
        except (zipfile.BadZipFile, OSError):
            raise SourceError(
                f"{source}: truncated, corrupt or not a zip file; download it again"
            ) from None
    else:
        raise UserError(
            f"--source={source}: not found; pass CLEVR_v1.0.zip or its folder"
        )
    inner = root / "CLEVR_v1.0"
    return inner if inner.is_dir() else root


def _columns(objects: list[dict]) -> Example:
    """Return the per-object columns of a scene.

    Raises:
      KeyError: A property is missing.
      ValueError: A property or the number of objects is not CLEVR's.
    """
    count = len(objects)
    if count > MAX_OBJECTS:
        raise ValueError(f"{count} objects")
    example = {"num_objects": np.array(count, np.int32)}
    for name, vocabulary in _NAMES.items():
        indices = [vocabulary.index(item[name]) for item in objects]
        example[name] = pad(np.array(indices, np.int8), MAX_OBJECTS, -1, "int8")
    for name, key in _FLOATS.items():
        values = np.array([item[key] for item in objects], np.float32).reshape(count, 3)
        example[name] = pad(values, MAX_OBJECTS, 0, "float32")
    rotation = np.array([item["rotation"] for item in objects], np.float32)
    example["rotation"] = pad(rotation, MAX_OBJECTS, 0, "float32")
    example["visibility"] = pad(np.ones(count), MAX_OBJECTS, 0, "float32")
    return example


def _read_scenes(
    root: pathlib.Path | zipfile.Path, folder: str
) -> list[tuple[str, Example]]:
    """Return the image names of a split and their per-object columns."""
    path = root / "scenes" / f"CLEVR_{folder}_scenes.json"
    content = read_bytes(path, _HINT)
    scenes = []
    try:
        for scene in json.loads(content)["scenes"]:
            scenes.append((scene["image_filename"], _columns(scene["objects"])))
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise SourceError(
            f"{path}: truncated or not CLEVR scenes (scene {len(scenes)}: {error}); "
            "download the dataset again"
        ) from None
    return scenes


def _load(
    split: str,
    index: int,
    *,
    root: pathlib.Path | zipfile.Path,
    scenes: Mapping[str, list[tuple[str, Example]]],
    size: int,
) -> Example:
    name, columns = scenes[split][index]
    path = root / "images" / _FOLDERS[split] / name
    image = files.decode(read_bytes(path, _HINT), str(path))
    width, height = image.size
    if min(width, height) < _CROP:
        raise SourceError(
            f"{path}: is {width} x {height} pixels, but CLEVR images are 480 x 320; "
            "download the dataset again"
        )
    real = columns["visibility"][:, None] > 0
    offset = np.array([(width - _CROP) // 2, (height - _CROP) // 2, 0])
    scale = np.array([size / _CROP, size / _CROP, 1])
    pixels = (columns["pixel_coords"] - offset) * scale
    return columns | {
        "image": files.square(image, _CROP, size),
        "pixel_coords": np.where(real, pixels, 0).astype(np.float32),
    }


def build(options: Options) -> Source:
    """Return the source of the zip file or folder `--source`.

    `--splits` selects the first scenes of each split. `pixel_coords` are in pixels of
    the stored image; objects outside the crop keep their rows.
    """
    options.reject()
    size = options.check_image_size(128, 16, _CROP)
    source = options.required_source(
        "CLEVR_v1.0.zip or its folder (https://cs.stanford.edu/people/jcjohns/clevr)"
    )
    root = _root(source)
    options.check_splits(dict.fromkeys(_FOLDERS))
    splits = options.splits or _FOLDERS
    scenes = {name: _read_scenes(root, _FOLDERS[name]) for name in splits}
    published = {name: len(found) for name, found in scenes.items()}
    options.check_splits(published)
    fields = object_fields(size, MAX_OBJECTS)
    del fields["segmentation"]
    return Source(
        source={"version": "CLEVR v1.0", "scenes": published},
        settings={
            "image_size": size,
            "max_objects": MAX_OBJECTS,
            "crop": f"the middle {_CROP} x {_CROP} pixels",
            "resize": files.RESIZE,
        },
        fields=fields,
        splits=options.splits or published,
        examples_per_shard=_PER_SHARD,
        load=functools.partial(_load, root=root, scenes=scenes, size=size),
    )
