"""COCO 2017 (Lin et al., ECCV 2014): photographs and instances of 80 classes.

Reads the published folder: `train2017/`, `val2017/` and
`annotations/instances_{train,val}2017.json`.
"""

import array
import hashlib
import json
import math
import pathlib
from typing import Any

import numpy as np
from absl import logging
from pycocotools import mask as masks

from ..store import StoreError
from . import json_arrays, photographs
from .base import Options, Source, SourceError, read_text

YEAR = 2017
_FOLDERS = {"train": f"train{YEAR}", "validation": f"val{YEAR}"}
RULES = {
    "overlaps": "pixels of several objects are ignored",
    "crowds": "pixels of crowd regions are ignored",
}
_LONGEST_SIDE = 65535
# What a malformed element of the JSON raises where it is used.
_ERRORS = (KeyError, TypeError, ValueError, AttributeError, OverflowError)


class _Annotations:
    """The annotations of a split: the file's text, and where in it each image's are.

    Args:
      source: the published folder.
      split: `train` or `validation`.
      count: images asked for, None for all.
    """

    def __init__(self, source: pathlib.Path, split: str, count: int | None):
        self.folder = source / _FOLDERS[split]
        self.path = source / "annotations" / f"instances_{_FOLDERS[split]}.json"
        logging.info("reading %s", self.path)
        self._text = read_text(
            self.path,
            "--source must be the folder that holds annotations/, train2017/ and "
            "val2017/",
        )
        self.sha256 = hashlib.sha256(self._text.encode()).hexdigest()
        self._images: list[tuple[int, str, int, int]] = []  # id, file, width, height
        self.categories: dict[int, str] = {}
        # By image, first and last character of each annotation in turn.
        self._places: dict[int, array.array] = {}
        self._num_objects: dict[int, int] = {}
        self._left_out = 0
        place = "annotations"
        try:
            keys = ("images", "annotations", "categories")
            for key, value, ends in json_arrays.elements(self._text, *keys):
                place = f"{key}, id {value['id']!r}"
                getattr(self, f"_add_to_{key}")(value, ends)
            self._check()
        except (*_ERRORS, RecursionError) as error:
            raise SourceError(
                f"{self.path}: truncated or no annotations of COCO ({place}: {error})"
            ) from None
        self._index = {number: i for i, number in enumerate(sorted(self.categories))}
        self.num_images = len(self._images)
        self._images = self._images[:count]

    def _add_to_images(self, value: dict, ends):
        sides = int(value["width"]), int(value["height"])
        if not all(0 < side <= _LONGEST_SIDE for side in sides):
            raise ValueError(f"sides {sides}")
        number, name = int(value["id"]), str(value["file_name"])
        if pathlib.PurePath(name).name != name or name in ("", ".."):
            raise ValueError(f"file name {name!r}")
        if not 0 <= number < 2**63:
            raise ValueError("id")
        self._images.append((number, name, *sides))

    def _add_to_categories(self, value: dict, ends):
        self.categories[int(value["id"])] = str(value["name"])

    def _add_to_annotations(self, value: dict, ends: tuple[int, int]):
        image = int(value["image_id"])
        self._places.setdefault(image, array.array("q")).extend(ends)
        segmentation, _ = value["segmentation"], int(value["category_id"])
        if not int(value["iscrowd"]):
            self._num_objects[image] = self._num_objects.get(image, 0) + 1
        if isinstance(segmentation, list):
            self._left_out += sum(len(polygon) < 6 for polygon in segmentation)

    def _check(self):
        known = {number for number, *_ in self._images}
        if len(known) < len(self._images):
            raise ValueError("two images of one id")
        if unknown := self._places.keys() - known:
            raise ValueError(f"annotation of image {min(unknown)}, which is not there")

    def split(self) -> photographs.Split:
        """Returns the images asked for."""
        counts = [self._num_objects.get(number, 0) for number, *_ in self._images]
        return photographs.Split(
            num_published=self.num_images,
            num_objects=counts,
            missing=self._missing(),
            version={"sha256": self.sha256, "polygons_left_out": self._left_out},
            load=self.load,
        )

    def _missing(self) -> str | None:
        try:
            there = {path.name for path in self.folder.iterdir()}
        except OSError:
            return str(self.folder)
        names = (name for _, name, *_ in self._images)
        return next((str(self.folder / n) for n in names if n not in there), None)

    def load(self, index: int):
        """Returns image, labels, categories and id of an image."""
        number, name, width, height = self._images[index]
        places = self._places.get(number, ())
        labels = np.zeros((height, width), np.int16)
        claims = np.zeros((height, width), np.int16)
        category = []
        try:
            for first, last in zip(places[::2], places[1::2], strict=True):
                annotation = json.loads(self._text[first:last])
                inside = decode(annotation["segmentation"], height, width)
                is_crowd = bool(int(annotation["iscrowd"]))
                # A crowd counts twice: nobody has a pixel of it alone.
                claims += inside * (2 if is_crowd else 1)
                if not is_crowd:
                    category.append(self._index[int(annotation["category_id"])])
                    labels[inside > 0] = len(category)
        except _ERRORS as error:
            raise SourceError(
                f"{self.path}: image {number} has a mask or class that cannot be read "
                f"({error})"
            ) from None
        labels[claims > 1] = photographs.IGNORED
        image = photographs.read_image(self.folder / name, width, height)
        return image, labels, category, number


def decode(segmentation: Any, height: int, width: int) -> np.ndarray:
    """Returns the mask [H, W] uint8 of polygons, or of run lengths of either kind.

    Polygons of less than three points, which have no area, are left out. Whatever
    pycocotools would not survive is refused before.

    Raises:
      ValueError, TypeError, KeyError, OverflowError: it is none, or of another size.
    """
    if isinstance(segmentation, list):
        polygons = [_polygon(p, height, width) for p in segmentation if len(p) >= 6]
        if not polygons:
            return np.zeros((height, width), np.uint8)
        return masks.decode(masks.merge(masks.frPyObjects(polygons, height, width)))
    if segmentation["size"] != [height, width]:
        raise ValueError(f"run lengths of size {segmentation['size']!r}")
    counts = segmentation["counts"]
    if isinstance(counts, str):
        counts = _runs(counts)
    counts = [int(count) for count in counts]
    if min(counts, default=-1) < 0 or sum(counts) != height * width:
        raise ValueError("run lengths that do not fill the image")
    runs = {"size": [height, width], "counts": counts}
    return masks.decode(masks.frPyObjects(runs, height, width))


def _polygon(values: list, height: int, width: int) -> list[float]:
    polygon = [float(value) for value in values]
    if len(polygon) % 2:
        raise ValueError("a polygon of an odd number of coordinates")
    # Annotators go a little beyond the image, never by as much again.
    most = 2 * max(height, width)
    if not all(math.isfinite(v) and -most <= v <= 2 * most for v in polygon):
        raise ValueError("a polygon far beyond the image")
    return polygon


def _runs(text: str) -> list[int]:
    """Returns run lengths from COCO's string of them.

    Digits of 5 bits and a bit for "more follow", lowest first, with a sign; from the
    third on the difference to the run before the last.
    """
    counts, value, shift = [], 0, 0
    for character in text:
        digit = ord(character) - 48
        if not 0 <= digit < 64:
            raise ValueError(f"{character!r} in run lengths")
        value |= (digit & 31) << shift
        shift += 5
        if digit & 32:
            continue
        if digit & 16:
            value -= 1 << shift
        counts.append(value + (counts[-2] if len(counts) > 2 else 0))
        value = shift = 0
    if shift:
        raise ValueError("run lengths that end early")
    return counts


def build(options: Options) -> Source:
    """Returns the source of the folder `--source`.

    Images are in the order of the annotations; `category` counts the classes by the
    order of their ids, whose gaps it leaves out.

    Raises:
      StoreError: an option out of range, or no source given.
      SourceError: annotations or images are missing, truncated or not COCO's.
    """
    size = photographs.check_options(options, "coco", tuple(_FOLDERS))
    if options.source is None:
        raise StoreError(
            "--source: must be given for --dataset=coco: the folder that holds "
            "annotations/, train2017/ and val2017/ (https://cocodataset.org)"
        )
    if not options.source.is_dir():
        raise StoreError(f"--source={options.source}: is no folder")
    wanted = options.splits or dict.fromkeys(_FOLDERS)
    found = {n: _Annotations(options.source, n, count) for n, count in wanted.items()}
    first = next(iter(found.values())).categories
    for annotations in found.values():
        if annotations.categories != first:
            raise SourceError(f"{annotations.path}: has categories of its own")
    return photographs.source(
        *(options, "coco", {name: each.split() for name, each in found.items()}),
        size=size,
        categories=[first[number] for number in sorted(first)],
        version={"version": f"COCO {YEAR}"},
        rules=RULES,
    )
