"""COCO 2017 (Lin et al., ECCV 2014): photographs and instances of 80 classes.

Reads the published folder: `train2017/`, `val2017/` and
`annotations/instances_{train,val}2017.json`.
"""

import array
import json
import pathlib
from typing import Any

import numpy as np
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


class _Annotations:
    """The annotations of a split: the file's text, and where in it each image's are."""

    def __init__(self, source: pathlib.Path, split: str):
        self.images_folder = source / _FOLDERS[split]
        self.path = source / "annotations" / f"instances_{_FOLDERS[split]}.json"
        self._text = read_text(
            self.path,
            "--source must be the folder that holds annotations/, train2017/ and "
            "val2017/",
        )
        self.images: list[tuple[int, str, int, int]] = []  # id, file, width, height
        self.categories: dict[int, str] = {}
        # By image, first and last character of each annotation in turn.
        self._places: dict[int, array.array] = {}
        objects: dict[int, int] = {}
        place = "annotations"
        try:
            keys = ("images", "annotations", "categories")
            for key, value, ends in json_arrays.elements(self._text, *keys):
                place = f"{key}, id {value['id']}"
                if key == "images":
                    name, sides = value["file_name"], (value["width"], value["height"])
                    self.images.append((int(value["id"]), str(name), *sides))
                elif key == "categories":
                    self.categories[int(value["id"])] = str(value["name"])
                else:
                    image = int(value["image_id"])
                    self._places.setdefault(image, array.array("q")).extend(ends)
                    if not value["iscrowd"]:
                        objects[image] = objects.get(image, 0) + 1
                    _ = value["segmentation"], int(value["category_id"])
            self._check()
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise SourceError(
                f"{self.path}: truncated or no annotations of COCO ({place}: {error})"
            ) from None
        self.most_objects = max(objects.values(), default=0)
        self.without_objects = len(self.images) - len(objects)
        self._index = {number: i for i, number in enumerate(sorted(self.categories))}

    def _check(self):
        known = {number for number, *_ in self.images}
        if len(known) < len(self.images):
            raise ValueError("two images of one id")
        if unknown := self._places.keys() - known:
            raise ValueError(f"annotation of image {min(unknown)}, which is not there")
        names = {pathlib.PurePath(name).name for _, name, *_ in self.images}
        if names != {name for _, name, *_ in self.images}:
            raise ValueError("names of images with folders")

    def category_names(self) -> list[str]:
        """Returns the names of the classes, in the order of their ids."""
        return [self.categories[number] for number in sorted(self.categories)]

    def missing(self) -> str | None:
        """Returns the first image whose file is not there."""
        try:
            there = {path.name for path in self.images_folder.iterdir()}
        except OSError:
            return str(self.images_folder)
        for _, name, *_ in self.images:
            if name not in there:
                return str(self.images_folder / name)
        return None

    def load(self, index: int):
        """Returns image, labels, categories and id of an image."""
        number, name, width, height = self.images[index]
        places = self._places.get(number, ())
        found = [
            json.loads(self._text[first:last])
            for first, last in zip(places[::2], places[1::2], strict=True)
        ]
        labels, category = np.zeros((height, width), np.int8), []
        claims = np.zeros((height, width), np.int16)
        try:
            for annotation in found:
                inside = decode(annotation["segmentation"], height, width)
                # A crowd counts twice: nobody has a pixel of it alone.
                claims += inside * (2 if annotation["iscrowd"] else 1)
                if not annotation["iscrowd"]:
                    category.append(self._index[annotation["category_id"]])
                    labels[inside > 0] = len(category)
        except (KeyError, TypeError, ValueError, IndexError) as error:
            raise SourceError(
                f"{self.path}: image {number} has a mask or class that cannot be read "
                f"({error})"
            ) from None
        labels[claims > 1] = photographs.IGNORED
        image = photographs.read_image(self.images_folder / name, width, height)
        return image, labels, category, number


def decode(segmentation: Any, height: int, width: int) -> np.ndarray:
    """Returns the mask [H, W] uint8 of polygons, or of run lengths of either kind.

    Raises:
      ValueError, TypeError, KeyError: it is none, or of another size.
    """
    if isinstance(segmentation, list):
        polygons = [p for p in segmentation if len(p) >= 6 and len(p) % 2 == 0]
        if len(polygons) < len(segmentation):
            raise ValueError("a polygon of less than three points")
        if not polygons:
            return np.zeros((height, width), np.uint8)
        runs = masks.merge(masks.frPyObjects(polygons, height, width))
    else:
        if segmentation["size"] != [height, width]:
            raise ValueError(f"run lengths of size {segmentation['size']}")
        runs = segmentation
        if isinstance(runs["counts"], list):
            if sum(runs["counts"]) != height * width:
                raise ValueError("run lengths that do not fill the image")
            runs = masks.frPyObjects(runs, height, width)
    return masks.decode(runs)


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
    found = {
        name: _Annotations(options.source, name) for name in options.splits or _FOLDERS
    }
    names = {name: split.category_names() for name, split in found.items()}
    first = next(iter(names.values()))
    for name, others in names.items():
        if others != first:
            raise SourceError(f"{found[name].path}: has categories of its own")
    splits = {
        name: photographs.Split(
            num_examples=len(split.images),
            most_objects=split.most_objects,
            without_objects=split.without_objects,
            missing=split.missing(),
            load=split.load,
        )
        for name, split in found.items()
    }
    return photographs.source(
        *(options, "coco", splits),
        size=size,
        categories=first,
        version={"version": f"COCO {YEAR}"},
        rules=RULES,
    )
