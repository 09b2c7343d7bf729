"""Pascal VOC 2012 (Everingham et al., 2010): natural images, objects of 20 classes.

The source is `VOC2012` of the published VOCdevkit, with the lists `train` and `val` of
`ImageSets/Segmentation`. If the Semantic Boundaries Dataset (SBD, Hariharan et al.,
ICCV 2011, published as `benchmark_RELEASE/dataset`) is next to it, its images outside
VOC's `val` are added to training. The resulting 10,582 images are known as `trainaug`.
"""

import hashlib
import itertools
import pathlib
import re

import numpy as np
import scipy.io
from absl import logging
from PIL import Image

from sanorm_jax.core import progress

from . import files, natural_images
from .base import Options, Source, SourceError, read_bytes

CATEGORIES = (
    "aeroplane",
    "bicycle",
    "bird",
    "boat",
    "bottle",
    "bus",
    "car",
    "cat",
    "chair",
    "cow",
    "diningtable",
    "dog",
    "horse",
    "motorbike",
    "person",
    "pottedplant",
    "sheep",
    "sofa",
    "train",
    "tvmonitor",
)
_LISTS = {"train": "train", "validation": "val"}
# Candidate folders of SBD, relative to `--source` and the parents of VOC2012.
_SBD = ("benchmark_RELEASE/dataset", "SBD/dataset", "SBD", "sbd")
_BORDER = 255
_NAME = re.compile(r"[0-9]{4}_[0-9]{6}")


def _names(path: pathlib.Path, hint: str) -> list[str]:
    names = read_bytes(path, hint).decode("utf-8", "replace").split()
    for name in names:
        if not _NAME.fullmatch(name):
            raise SourceError(
                f"{path}: {name!r} is not a VOC image name; download it again"
            )
    return names


def _labels(path: pathlib.Path, max_label: int) -> np.ndarray:
    """Return the indices of a palette image, `[H, W]`; SourceError if invalid."""
    try:
        with Image.open(path, formats=("PNG",)) as image:
            if image.mode not in ("P", "L"):
                raise ValueError(f"mode {image.mode}, not a palette image")
            labels = np.array(image)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise SourceError(
            f"{path}: corrupt or not a label image ({error}); download it again"
        ) from None
    wrong = labels[(labels > max_label) & (labels != _BORDER)]
    if wrong.size:
        raise SourceError(
            f"{path}: has label {wrong.max()}, above {max_label}; download it again"
        )
    return labels.astype(np.int16)


def _files(
    name: str, voc: pathlib.Path, sbd: pathlib.Path | None, in_voc: bool
) -> list[pathlib.Path]:
    """Return the files of an image and its annotations: of VOC or, else, of SBD."""
    image = voc / "JPEGImages" / f"{name}.jpg"
    if sbd and not image.exists():
        image = sbd / "img" / f"{name}.jpg"
    if in_voc:
        folders = ("SegmentationObject", "SegmentationClass")
        return [image, *(voc / folder / f"{name}.png" for folder in folders)]
    return [image, sbd / "inst" / f"{name}.mat"]


def _annotations(paths: list[pathlib.Path]) -> tuple[np.ndarray, list[int]]:
    """Return labels `[H, W]`, -1 on borders, and the categories of the objects."""
    return _of_sbd(*paths) if len(paths) == 1 else _of_voc(*paths)


def _of_voc(
    path: pathlib.Path, class_path: pathlib.Path
) -> tuple[np.ndarray, list[int]]:
    objects, classes = _labels(path, 254), _labels(class_path, len(CATEGORIES))
    if objects.shape != classes.shape:
        raise SourceError(
            f"{class_path}: differs in size from {path}; download both again"
        )
    category = []
    labels = np.where(objects == _BORDER, natural_images.IGNORED, 0)
    for value in sorted(set(np.unique(objects)) - {0, _BORDER}):
        inside = objects == value
        found = classes[inside & (classes > 0) & (classes != _BORDER)]
        if not found.size:
            raise SourceError(
                f"{class_path}: no class for object {value}; download it again"
            )
        category.append(int(np.bincount(found).argmax()) - 1)
        labels[inside] = len(category)
    return labels, category


def _of_sbd(path: pathlib.Path) -> tuple[np.ndarray, list[int]]:
    try:
        found = scipy.io.loadmat(path, simplify_cells=True)["GTinst"]
        objects = np.asarray(found["Segmentation"])
        classes = np.atleast_1d(np.asarray(found["Categories"])).astype(int)
        if objects.ndim != 2 or objects.max(initial=0) > len(classes):
            raise ValueError(
                f"{objects.max(initial=0)} objects, {len(classes)} classes"
            )
        if classes.size and not 1 <= classes.min() <= classes.max() <= 20:
            raise ValueError(f"classes {classes.tolist()}")
    except Exception as error:  # SciPy raises various types for damaged files.
        raise SourceError(
            f"{path}: corrupt or not SBD annotations ({error!r}); download it again"
        ) from None
    return objects.astype(np.int16), (classes - 1).tolist()


def _folders(source: pathlib.Path) -> tuple[pathlib.Path, pathlib.Path | None]:
    """Return the folders of VOC2012 and SBD; the latter is None if absent."""
    source = source.resolve()
    inner = ("", "VOC2012", "VOCdevkit/VOC2012")
    found = [source / name for name in inner if (source / name / "ImageSets").is_dir()]
    if not found:
        raise SourceError(
            f"--source={source}: contains no VOC2012 with ImageSets/Segmentation; pass "
            "the folder VOCdevkit"
        )
    voc = found[0]
    for above in (source, voc.parent, voc.parent.parent):
        for name in _SBD:
            if (above / name / "inst").is_dir():
                logging.info("using SBD in %s", above / name)
                return voc, above / name
    logging.info("training without SBD; it could be in %s", voc.parent.parent / _SBD[0])
    return voc, None


def _read_split(
    split: str, count: int | None, voc: pathlib.Path, sbd: pathlib.Path | None
) -> natural_images.Split:
    lists = voc / "ImageSets" / "Segmentation"
    hint = "pass VOCdevkit, its VOC2012 or the folder above as --source"
    names = _names(lists / f"{_LISTS[split]}.txt", hint)
    in_voc = set(names)
    if sbd and split == "train":
        held_out = in_voc | set(_names(lists / "val.txt", hint))
        hint = "SBD is incomplete; download it again or remove it"
        more = {
            name for n in _LISTS.values() for name in _names(sbd / f"{n}.txt", hint)
        }
        names += sorted(more - held_out)
    num_published, names = len(names), names[:count]
    paths = [_files(name, voc, sbd, name in in_voc) for name in names]
    digest = hashlib.sha256()
    for path in itertools.chain(*paths):
        if not path.exists():
            raise natural_images.missing(path, split)
        digest.update(f"{path.name} {path.stat().st_size}\n".encode())

    def load(index):
        labels, category = _annotations(paths[index][1:])
        height, width = labels.shape
        image = natural_images.read_image(paths[index][0], width, height)
        return image, labels, category, int(names[index].replace("_", ""))

    counts = []
    with progress.Progress("reading labels", len(names), "images") as bar:
        for _, category in files.load_all(_annotations, [p[1:] for p in paths]):
            counts.append(len(category))
            bar.advance(1)
    return natural_images.Split(
        num_published=num_published,
        num_objects=counts,
        version={"sha256_of_sizes": digest.hexdigest()},
        load=load,
    )


def build(options: Options) -> Source:
    """Return the source of the folder `--source`."""
    size = natural_images.check_options(options, _LISTS)
    source = options.required_source(
        "the folder VOCdevkit of VOC 2012 "
        "(http://host.robots.ox.ac.uk/pascal/VOC/voc2012)"
    )
    voc, sbd = _folders(source)
    wanted = options.splits or dict.fromkeys(_LISTS)
    return natural_images.source(
        options,
        {n: _read_split(n, count, voc, sbd) for n, count in wanted.items()},
        size=size,
        categories=CATEGORIES,
        version={"version": "VOC 2012", "sbd": sbd is not None},
        rules={"border": "pixels of the published border label 255 are ignored"},
    )
