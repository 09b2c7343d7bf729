"""Small COCO and VOC datasets in the published formats, with their expected labels.

Objects are axis-aligned boxes (top, left, bottom, right). The expected labels therefore
do not depend on a reader of the formats.
"""

import dataclasses
import json
import pathlib

import numpy as np
import scipy.io
from PIL import Image
from pycocotools import mask as masks

# As published: 80 classes with IDs up to 90.
GAPS = {12, 26, 29, 30, 45, 66, 68, 69, 71, 83}
IDS = [number for number in range(1, 91) if number not in GAPS]
Box = tuple[int, int, int, int]
ORIENTATION = 0x0112


@dataclasses.dataclass
class Photo:
    """A COCO image and its annotations.

    Attributes:
      height: Number of rows as annotated.
      width: Number of columns as annotated.
      boxes: Boxes of the objects, with category IDs.
      kinds: Format of each object's mask: `polygon`, `polygons` (two halves), `runs`
        (uncompressed) or `compressed`.
      crowd: Box of a crowd region.
      gray: Whether the file is grayscale.
      orientation: EXIF tag, 1 to 8.
      turned: Whether pixels are stored rotated, as given by the tag, while annotations
        refer to the upright image.
    """

    height: int
    width: int
    boxes: list[tuple[Box, int]] = dataclasses.field(default_factory=list)
    kinds: tuple[str, ...] = ()
    crowd: Box | None = None
    gray: bool = False
    orientation: int = 1
    turned: bool = False


TRAIN = [
    Photo(60, 80, [((5, 15, 30, 40), 1), ((20, 30, 50, 60), 90)], ("polygon",) * 2),
    Photo(60, 80, [((10, 20, 40, 60), 18)], ("runs",), crowd=(30, 50, 60, 70)),
    Photo(80, 50),
    Photo(48, 48, [((0, 0, 24, 24), 3)], ("compressed",), gray=True),
    # Annotated as stored, regardless of the tag.
    Photo(64, 40, [((30, 0, 50, 20), 84)], ("polygons",), orientation=6),
    # The first object is outside the central square.
    Photo(40, 90, [((5, 2, 30, 20), 2), ((5, 30, 30, 60), 44)], ("polygon",) * 2),
]
VALIDATION = [
    Photo(50, 70, [((10, 20, 40, 50), 90), ((5, 12, 9, 30), 1)], ("polygon", "runs")),
    Photo(64, 40, [((30, 0, 50, 20), 5)], ("polygon",), orientation=6, turned=True),
    Photo(45, 45),
    Photo(
        45,
        60,
        [((2, 12, 40, 30), 7), ((2, 32, 40, 50), 7)],
        ("compressed",) * 2,
        crowd=(30, 20, 45, 45),
    ),
]


def box_mask(box: Box, height: int, width: int) -> np.ndarray:
    """Return the pixels of a box, bool `[H, W]`."""
    inside = np.zeros((height, width), bool)
    inside[box[0] : box[2], box[1] : box[3]] = True
    return inside


def _polygon(box: Box) -> list[float]:
    top, left, bottom, right = map(float, box)
    return [left, top, right, top, right, bottom, left, bottom]


def _segmentation(kind: str, box: Box, photo: Photo):
    if kind == "polygon":
        return [_polygon(box)]
    if kind == "polygons":
        top, left, bottom, right = box
        middle = (top + bottom) // 2
        halves = ((top, left, middle, right), (middle, left, bottom, right))
        return [_polygon(half) for half in halves]
    inside = box_mask(box, photo.height, photo.width)
    size = [photo.height, photo.width]
    if kind == "compressed":
        runs = masks.encode(np.asfortranarray(inside.astype(np.uint8)))
        return {"size": size, "counts": runs["counts"].decode()}
    # Column by column, starting with background pixels.
    flat = np.concatenate([[False], inside.ravel(order="F"), [True]])
    ends = np.flatnonzero(flat[1:] != flat[:-1])
    counts = np.diff(np.concatenate([[0], ends, [inside.size]]))
    return {"size": size, "counts": counts.tolist()}


def labels(photo: Photo) -> tuple[np.ndarray, list[int]]:
    """Return the expected labels of the annotated pixels, and the category IDs."""
    shape = photo.height, photo.width
    inside = [box_mask(box, *shape) for box, _ in photo.boxes]
    result = np.zeros(shape, np.int64)
    for number, mask in enumerate(inside, 1):
        result[mask] = number
    claims = np.sum([np.zeros(shape, int), *inside], 0)
    result[claims > 1] = -1
    if photo.crowd:
        result[box_mask(photo.crowd, *shape)] = -1
    return result, [number for _, number in photo.boxes]


def pixels(photo: Photo, seed: int) -> np.ndarray:
    """Return a smooth image in the annotated orientation, uint8 `[H, W, 3]`."""
    small = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), np.uint8)
    size = photo.width, photo.height
    return np.asarray(Image.fromarray(small).resize(size, Image.Resampling.BICUBIC))


def _write_image(path: pathlib.Path, photo: Photo, seed: int):
    image = Image.fromarray(pixels(photo, seed))
    if photo.turned:
        # Orientation 6, a quarter turn to the right, makes the stored image upright.
        image = image.transpose(Image.Transpose.ROTATE_90)
    exif = Image.Exif()
    if photo.orientation != 1:
        exif[ORIENTATION] = photo.orientation
    image = image.convert("L") if photo.gray else image
    image.save(path, quality=95, exif=exif)


def write_coco(root: pathlib.Path) -> pathlib.Path:
    """Write the folder of COCO 2017 with `TRAIN` and `VALIDATION`."""
    (root / "annotations").mkdir(parents=True)
    for split, photos in (("train", TRAIN), ("val", VALIDATION)):
        folder = root / f"{split}2017"
        folder.mkdir()
        images, annotations = [], []
        for index, photo in enumerate(photos):
            number = 1000 * len(photos) + 7 * index
            name = f"{number:012d}.jpg"
            _write_image(folder / name, photo, number)
            images.append(
                {
                    "license": 3,
                    "file_name": name,
                    "coco_url": f"http://images.cocodataset.org/{split}2017/{name}",
                    "height": photo.height,
                    "width": photo.width,
                    "id": number,
                }
            )
            written = list(zip(photo.boxes, photo.kinds, strict=True))
            for (box, category), kind in written:
                annotations.append(
                    {
                        "segmentation": _segmentation(kind, box, photo),
                        "iscrowd": 0,
                        "image_id": number,
                        "category_id": category,
                        "id": len(annotations) + 1,
                    }
                )
            if photo.crowd:
                annotations.append(
                    {
                        "segmentation": _segmentation("runs", photo.crowd, photo),
                        "iscrowd": 1,
                        "image_id": number,
                        "category_id": 1,
                        "id": 900100000001 + index,
                    }
                )
        content = {
            "info": {"description": "COCO 2017 Dataset", "contributor": "[{a}]"},
            "licenses": [{"id": 3, "name": 'a "]" in a name'}],
            "images": images,
            # The annotations are not in the order of the images.
            "annotations": annotations[::-1],
            "categories": [
                {"supercategory": "thing", "id": n, "name": f"class {n}"} for n in IDS
            ],
        }
        path = root / "annotations" / f"instances_{split}2017.json"
        path.write_text(json.dumps(content))
    return root


# VOC images by name: size, and boxes with class indices from 1.
VOC_TRAIN = {
    "2007_000032": ((50, 70), [((5, 15, 40, 35), 1), ((20, 40, 45, 60), 15)]),
    "2007_000039": ((60, 45), [((10, 5, 50, 40), 20)]),
}
VOC_VAL = {
    "2007_000033": ((50, 70), [((8, 20, 40, 50), 12)]),
    "2007_000042": ((48, 48), [((2, 2, 20, 20), 7), ((22, 22, 46, 46), 7)]),
}
# Images in the lists of SBD. Two of them are also in VOC.
SBD = {
    "2008_000002": ((40, 60), [((4, 14, 30, 40), 20)]),
    "2008_000015": ((40, 60), [((4, 14, 20, 30), 5), ((22, 20, 38, 44), 15)]),
    "2007_000032": ((50, 70), [((0, 0, 50, 70), 3)]),
    "2007_000033": ((50, 70), [((0, 0, 50, 70), 3)]),
}
_BORDER = 255


def voc_maps(size, boxes) -> tuple[np.ndarray, np.ndarray]:
    """Return object and class indices `[H, W]`, with borders labeled 255."""
    objects = np.zeros(size, np.uint8)
    classes = np.zeros(size, np.uint8)
    for number, (box, category) in enumerate(boxes, 1):
        inside = box_mask(box, *size)
        top, left, bottom, right = box
        core = box_mask((top + 1, left + 1, bottom - 1, right - 1), *size)
        for labels, value in ((objects, number), (classes, category)):
            labels[inside] = _BORDER
            labels[core] = value
    return objects, classes


def write_voc(root: pathlib.Path, with_sbd: bool = False) -> pathlib.Path:
    """Write VOCdevkit with VOC2012 and optionally SBD next to it."""
    voc = root / "VOCdevkit" / "VOC2012"
    for name in ("JPEGImages", "SegmentationObject", "SegmentationClass"):
        (voc / name).mkdir(parents=True)
    (voc / "ImageSets" / "Segmentation").mkdir(parents=True)
    palette = np.random.default_rng(0).integers(0, 256, 768, np.uint8).tolist()
    for split, photos in (("train", VOC_TRAIN), ("val", VOC_VAL)):
        names = "\n".join(photos) + "\n"
        (voc / "ImageSets" / "Segmentation" / f"{split}.txt").write_text(names)
        for name, (size, boxes) in photos.items():
            _write_image(voc / "JPEGImages" / f"{name}.jpg", Photo(*size), len(name))
            maps = voc_maps(size, boxes)
            folders = ("SegmentationObject", "SegmentationClass")
            for folder, labels in zip(folders, maps, strict=True):
                image = Image.fromarray(labels, "P")
                image.putpalette(palette)
                image.save(voc / folder / f"{name}.png")
    if with_sbd:
        sbd = root / "benchmark_RELEASE" / "dataset"
        for name in ("img", "inst", "cls"):
            (sbd / name).mkdir(parents=True)
        names = list(SBD)
        (sbd / "train.txt").write_text("\n".join(names[:2]) + "\n")
        (sbd / "val.txt").write_text("\n".join(names[2:]) + "\n")
        for name, (size, boxes) in SBD.items():
            _write_image(sbd / "img" / f"{name}.jpg", Photo(*size), len(name))
            labels = np.zeros(size, np.uint8)
            for number, (box, _) in enumerate(boxes, 1):
                labels[box_mask(box, *size)] = number
            categories = np.array([[category] for _, category in boxes], np.uint8)
            instances = {"Segmentation": labels, "Categories": categories}
            scipy.io.savemat(sbd / "inst" / f"{name}.mat", {"GTinst": instances})
    return root
