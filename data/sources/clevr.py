"""CLEVR v1.0 (Johnson et al., CVPR 2017): images and scenes, without masks.

The source is `CLEVR_v1.0.zip` or the unpacked folder. The published test split has no
scenes and is not used.
"""

import functools
import json
import pathlib
import zipfile
import zlib
from collections.abc import Iterator, Mapping

import numpy as np

from sanorm_jax.core.errors import UserError

from .. import properties
from . import files
from .base import Example, Options, Source, SourceError, object_fields, pad

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


class _Archive:
    """Files of the dataset in a zip file or a folder."""

    def __init__(self, path: pathlib.Path):
        self.path = path
        self._zip, self._prefix = None, ""
        if path.is_dir():
            inner = path / "CLEVR_v1.0"
            self.path = inner if inner.is_dir() else path
        elif path.is_file():
            try:
                self._zip = zipfile.ZipFile(path)
            except (zipfile.BadZipFile, OSError):
                raise SourceError(
                    f"{path}: truncated, corrupt or not a zip file; download it again"
                ) from None
            wanted = "scenes/CLEVR_train_scenes.json"
            for name in self._zip.namelist():
                if name.endswith(wanted):
                    self._prefix = name.removesuffix(wanted)
        else:
            raise UserError(
                f"--source={path}: not found; pass CLEVR_v1.0.zip or its folder"
            )

    def name(self, inner: str) -> str:
        """Return the name of a file for error messages."""
        return f"{self.path}/{self._prefix}{inner}"

    def read(self, inner: str) -> bytes:
        """Return the content of a file.

        Raises:
          SourceError: The file is missing or corrupt.
        """
        try:
            if self._zip is None:
                return (self.path / inner).read_bytes()
            return self._zip.read(self._prefix + inner)
        except (KeyError, FileNotFoundError):
            raise SourceError(
                f"{self.name(inner)}: missing; --source must be CLEVR_v1.0.zip or its "
                "folder"
            ) from None
        except (OSError, zipfile.BadZipFile, zlib.error, EOFError) as error:
            raise SourceError(
                f"{self.name(inner)}: unreadable ({error}); download the dataset again"
            ) from None


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


class _Split:
    """The scenes of a split; only stored fields are kept (1 kB per scene)."""

    def __init__(self, archive: _Archive, split: str):
        self._archive = archive
        self._folder = _FOLDERS[split]
        file = f"scenes/CLEVR_{self._folder}_scenes.json"
        self._images, self._columns = [], []
        try:
            for scene in json.loads(archive.read(file))["scenes"]:
                self._images.append(scene["image_filename"])
                self._columns.append(_columns(scene["objects"]))
        except (KeyError, TypeError, ValueError, RecursionError) as error:
            raise SourceError(
                f"{archive.name(file)}: truncated or not CLEVR scenes "
                f"(scene {len(self._images)}: {error}); download the dataset again"
            ) from None

    def __len__(self):
        return len(self._images)

    def load(self, index: int, size: int) -> Example:
        """Return an example.

        Raises:
          SourceError: The image is missing or corrupt.
        """
        file = f"images/{self._folder}/{self._images[index]}"
        image = files.decode(self._archive.read(file), self._archive.name(file))
        width, height = image.size
        if min(width, height) < _CROP:
            raise SourceError(
                f"{self._archive.name(file)}: is {width} x {height} pixels, but CLEVR "
                "images are 480 x 320; download the dataset again"
            )
        example = dict(self._columns[index], image=files.square(image, _CROP, size))
        real = example["visibility"][:, None] > 0
        offset = np.array([(width - _CROP) // 2, (height - _CROP) // 2, 0])
        scale = np.array([size / _CROP, size / _CROP, 1])
        pixels = (example["pixel_coords"] - offset) * scale
        example["pixel_coords"] = np.where(real, pixels, 0).astype(np.float32)
        return example


def _examples(
    split: str, start: int, *, scenes: Mapping[str, _Split], count, size: int
) -> Iterator[Example]:
    load = functools.partial(scenes[split].load, size=size)
    return files.load_all(load, range(start, count[split]))


def build(options: Options) -> Source:
    """Return the source of the zip file or folder `--source`.

    `--splits` selects the first scenes of each split. `pixel_coords` are in pixels of
    the stored image; objects outside the crop keep their rows.

    Raises:
      UserError: An option is out of range, or the source is not given.
      SourceError: The scenes are missing, truncated or not CLEVR's.
    """
    options.reject("clevr")
    size = options.check_image_size(128, 16, _CROP)
    if options.source is None:
        raise UserError(
            "--source: required for --dataset=clevr; pass CLEVR_v1.0.zip or its folder "
            "(https://cs.stanford.edu/people/jcjohns/clevr)"
        )
    archive = _Archive(options.source)
    options.check_splits("clevr", dict.fromkeys(_FOLDERS))
    scenes = {name: _Split(archive, name) for name in options.splits or _FOLDERS}
    published = {name: len(split) for name, split in scenes.items()}
    options.check_splits("clevr", published)
    splits = dict(options.splits or published)
    fields = object_fields(size, MAX_OBJECTS)
    del fields["segmentation"]
    return Source(
        dataset="clevr",
        source={
            "version": "CLEVR v1.0",
            "scenes": published,
        },
        settings={
            "image_size": size,
            "max_objects": MAX_OBJECTS,
            "crop": f"the middle {_CROP} x {_CROP} pixels",
            "resize": files.RESIZE,
        },
        fields=fields,
        splits=splits,
        examples_per_shard=_PER_SHARD,
        examples=functools.partial(_examples, scenes=scenes, count=splits, size=size),
    )
