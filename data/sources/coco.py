"""COCO 2017 (Lin et al., ECCV 2014): natural images with instances of 80 classes.

The source is the published folder with `train2017/`, `val2017/` and
`annotations/instances_{train,val}2017.json`.
"""

import collections
import functools
import hashlib
import json
import pathlib
from collections.abc import Callable, Container, Mapping
from typing import Any

import numpy as np
from absl import logging
from pycocotools import mask as masks

from sanorm_jax.core.errors import UserError

from . import natural_images
from .base import Options, Source, SourceError, read_bytes

YEAR = 2017
_FOLDERS = {"train": f"train{YEAR}", "validation": f"val{YEAR}"}
_LONGEST_SIDE = 65535
_HINT = "the folder that holds annotations/, train2017/ and val2017/"


def _read_split(
    path: pathlib.Path, folder: pathlib.Path, split: str, count: int | None
) -> tuple[natural_images.Split, dict[int, str]]:
    """Return the first `count` images (None: all), and the class names by id."""
    logging.info("reading %s", path)
    text = read_bytes(path, f"pass {_HINT} as --source")
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise SourceError(
            f"{path}: truncated or not JSON ({error}); download it again"
        ) from None
    try:
        num_removed = check(content)
    except ValueError as error:
        raise SourceError(
            f"{path}: {error}; correct it, or download the file again"
        ) from None
    images = content["images"][:count]
    if not folder.is_dir():
        raise natural_images.missing(folder, split)
    # One listing, because a check per file is slow on network file systems.
    existing = {image_path.name for image_path in folder.iterdir()}
    for image in images:
        if image["file_name"] not in existing:
            raise natural_images.missing(folder / image["file_name"], split)
    annotations = collections.defaultdict(list)
    for annotation in content["annotations"]:
        annotations[annotation["image_id"]].append(annotation)
    categories = {c["id"]: c["name"] for c in content["categories"]}
    class_index = {number: i for i, number in enumerate(sorted(categories))}

    def load(index):
        image = images[index]
        height, width = image["height"], image["width"]
        labels = np.zeros((height, width), np.int16)
        claims = np.zeros((height, width), np.int16)
        category = []
        for annotation in annotations[image["id"]]:
            runs = masks.frPyObjects(annotation["segmentation"], height, width)
            # Of polygons, there is one mask each.
            inside = masks.decode(masks.merge(runs) if isinstance(runs, list) else runs)
            # A crowd counts twice, so that its pixels are ignored.
            claims += inside * (2 if annotation["iscrowd"] else 1)
            if not annotation["iscrowd"]:
                category.append(class_index[annotation["category_id"]])
                labels[inside > 0] = len(category)
        labels[claims > 1] = natural_images.IGNORED
        pixels = natural_images.read_image(folder / image["file_name"], width, height)
        return pixels, labels, category, image["id"]

    return natural_images.Split(
        num_published=len(content["images"]),
        num_objects=[
            sum(not annotation["iscrowd"] for annotation in annotations[image["id"]])
            for image in images
        ],
        version={
            "sha256": hashlib.sha256(text).hexdigest(),
            "polygons_left_out": num_removed,
        },
        load=load,
    ), categories


def check(content: Any) -> int:
    """Validate and normalize the content of an annotation file in place.

    `iscrowd` defaults to 0, and polygons with fewer than three points, which have no
    area, are removed. pycocotools does not validate its input: it crashes on NaN and
    returns uninitialized memory for run lengths that do not fill the image.

    Args:
      content: Parsed JSON of the file.

    Returns:
      The number of polygons removed.

    Raises:
      ValueError: The content is malformed. The message names the field and the id of
        the element.
    """
    if not isinstance(content, dict):
        raise ValueError("is not a JSON object")
    for key in ("images", "annotations", "categories"):
        if not isinstance(content.get(key), list):
            raise ValueError(f"has no list {key!r}")
    for category in content["categories"]:
        _convert("category", category, {"id": _whole, "name": str})
    images = {}
    for image in content["images"]:
        sides = {"width": _side, "height": _side}
        _convert("image", image, {"id": _whole, "file_name": _file_name, **sides})
        if images.setdefault(image["id"], image) is not image:
            raise ValueError(f"image {image['id']}: two images have this id")
    categories = {category["id"] for category in content["categories"]}
    fields = {
        "id": _label,
        "image_id": functools.partial(_one_of, images),
        "category_id": functools.partial(_one_of, categories),
        "iscrowd": functools.partial(_one_of, (0, 1)),
    }
    num_removed = 0
    for annotation in content["annotations"]:
        if isinstance(annotation, dict):
            annotation.setdefault("iscrowd", 0)
        _convert("annotation", annotation, fields)
        before = annotation.get("segmentation")
        image = images[annotation["image_id"]]
        mask = functools.partial(segmentation, image=image)
        _convert("annotation", annotation, {"segmentation": mask})
        if isinstance(before, list):
            num_removed += len(before) - len(annotation["segmentation"])
    return num_removed


def _convert(kind: str, record: Any, converters: Mapping[str, Callable[[Any], Any]]):
    """Convert fields of a record in place; a ValueError names the record and field."""
    if not isinstance(record, dict):
        raise ValueError(f"{kind} {record!r:.40} is not an object")
    name = f"{kind} {record.get('id', 'without an id')!r:.40}"
    for field, convert in converters.items():
        if field not in record:
            raise ValueError(f"{name}: has no {field}")
        try:
            record[field] = convert(record[field])
        except (TypeError, ValueError) as error:
            raise ValueError(f"{name}: {field}: {error}") from None


def _whole(value: Any) -> int:
    is_number = isinstance(value, int | float) and 0 <= value < 2**63
    if not is_number or int(value) != value:
        raise ValueError(f"{value!r:.40} is not a whole number from 0 to 2^63 - 1")
    return int(value)


def _label(value: Any) -> int | str:
    if not isinstance(value, int | str):
        raise ValueError(f"{value!r:.40} is neither a number nor a string")
    return value


def _side(value: Any) -> int:
    if not 0 < _whole(value) <= _LONGEST_SIDE:
        raise ValueError(f"must be 1 to {_LONGEST_SIDE}, not {value}")
    return int(value)


def _file_name(value: Any) -> str:
    if pathlib.PurePath(value).name != value or value in ("", ".."):
        raise ValueError(f"{value!r:.40} is not the name of a file")
    return value


def _one_of(known: Container[int], value: Any) -> int:
    if _whole(value) not in known:
        raise ValueError(f"there is no {value}")
    return int(value)


def segmentation(value: Any, image: Mapping[str, Any]) -> list | dict[str, Any]:
    """Return the polygons or, from either encoding, the run lengths of a mask.

    Raises:
      ValueError: The mask is malformed or of another size.
    """
    size = [image["height"], image["width"]]
    if isinstance(value, list):
        polygons = [polygon for polygon in value if len(_polygon(polygon, size)) >= 6]
        if not polygons:
            raise ValueError("has no polygon [x1, y1, x2, y2, x3, y3, ...]")
        return polygons
    if not isinstance(value, dict):
        raise ValueError("is neither a list of polygons nor run lengths")
    if value.get("size") != size:
        raise ValueError(f"run lengths of size {value.get('size')!r:.40}, not {size}")
    counts = value.get("counts")
    if isinstance(counts, str):
        counts = _runs(counts)
    if not isinstance(counts, list) or sum(map(_whole, counts)) != size[0] * size[1]:
        raise ValueError("run lengths do not fill the image")
    return {"size": size, "counts": [int(count) for count in counts]}


def _polygon(polygon: Any, size: list[int]) -> list:
    if not isinstance(polygon, list) or not all(
        isinstance(value, int | float) for value in polygon
    ):
        raise ValueError("a polygon is not a list of numbers [x1, y1, x2, y2, ...]")
    if len(polygon) % 2:
        raise ValueError("a polygon has an odd number of coordinates")
    # Annotations may extend slightly beyond the image, but never by its size.
    limit = 2 * max(size)
    if not all(-limit <= value <= 2 * limit for value in polygon):
        raise ValueError("a polygon lies far beyond the image")
    return polygon


def _runs(text: str) -> list[int]:
    """Decode the run lengths of COCO's compressed string.

    pycocotools decodes such strings only to masks and without checks. The encoding is a
    signed little-endian base-32 number per run, with a continuation bit per digit. From
    the fourth run on, the number is the difference to the run two before.
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
        raise ValueError("run lengths end early")
    return counts


def build(options: Options) -> Source:
    """Return the source of the folder `--source`.

    Images keep the order of the annotations. `category` is the rank of the class id,
    because COCO's ids have gaps.
    """
    size = natural_images.check_options(options, _FOLDERS)
    source = options.required_source(f"{_HINT} (https://cocodataset.org)")
    if not source.is_dir():
        raise UserError(f"--source={source}: not a folder; pass {_HINT}")
    splits, categories = {}, None
    for name, count in (options.splits or dict.fromkeys(_FOLDERS)).items():
        folder = source / _FOLDERS[name]
        path = source / "annotations" / f"instances_{folder.name}.json"
        splits[name], found = _read_split(path, folder, name, count)
        if categories not in (None, found):
            raise SourceError(
                f"{path}: categories differ from those of the other split; download "
                "both annotation files again"
            )
        categories = found
    return natural_images.source(
        options,
        splits,
        size=size,
        categories=[categories[number] for number in sorted(categories)],
        version={"version": f"COCO {YEAR}"},
        rules={
            "overlaps": "pixels of several objects are ignored",
            "crowds": "pixels of crowd regions are ignored",
        },
    )
