"""Pascal VOC: labels against boxes by hand, files that are missing or damaged."""

import pathlib
import shutil
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from sanorm_jax.data.sources import voc
from sanorm_jax.data.sources.base import SourceError
from sanorm_jax.data.store import Store
from tests.data import natural_image_fixtures as fixtures
from tests.data.sources import natural_images_shared as shared


def test_voc_becomes_a_store(tmp_path):
    root = fixtures.write_voc(tmp_path / "published")
    store = Store.open(shared.write_store("voc", root / "VOCdevkit", tmp_path))
    assert store.splits == {"train": 2, "validation": 2}
    assert store.settings["categories"][:2] == ["aeroplane", "bicycle"]
    for split, photos in (
        ("train", fixtures.VOC_TRAIN),
        ("validation", fixtures.VOC_VAL),
    ):
        maps = [fixtures.voc_maps(*photo)[0].astype(int) for photo in photos.values()]
        labels = [np.where(m == 255, -1, m) for m in maps]
        categories = [[c - 1 for _, c in boxes] for _, boxes in photos.values()]
        images = [
            fixtures.pixels(fixtures.Photo(*size), len(name))
            for name, (size, _) in photos.items()
        ]
        shared.check(store, split, labels, categories, images)
    assert store.column("train", "image_id").tolist() == [2007000032, 2007000039]


def test_sbd_adds_training_images_but_none_of_validation(tmp_path, monkeypatch):
    root = fixtures.write_voc(tmp_path / "published", with_sbd=True)
    store = Store.open(shared.write_store("voc", root, tmp_path))
    assert store.splits == {"train": 4, "validation": 2}
    numbers = [2007000032, 2007000039, 2008000002, 2008000015]
    assert store.column("train", "image_id").tolist() == numbers
    # It is found from within, too.
    monkeypatch.chdir(root / "VOCdevkit" / "VOC2012")
    again = shared.write_store("voc", pathlib.Path(), tmp_path / "again")
    assert Store.open(again).splits["train"] == 4
    # VOC's own labels win over SBD's, which call all of the first image a bird.
    assert store.column("train", "category")[0].tolist() == [0, 14]
    assert store.column("train", "category")[3].tolist() == [4, 14]
    assert store.column("train", "category")[2].tolist() == [19, -1]


VOC_FILES = "VOCdevkit/VOC2012"
OBJECT = f"{VOC_FILES}/SegmentationObject/2007_000039.png"
SBD_LIST = "benchmark_RELEASE/dataset/train.txt"
VAL = f"{VOC_FILES}/ImageSets/Segmentation/val.txt"
CLASS = f"{VOC_FILES}/SegmentationClass/2007_000039.png"


def _many_objects(path):
    for file, count in ((path, 200), (path.parents[1] / "SegmentationClass", 1)):
        file = file if file.suffix else file / path.name
        labels = (np.arange(60 * 45).reshape(60, 45) % count + 1).astype(np.uint8)
        image = Image.fromarray(labels, "P")
        image.putpalette(list(range(256)) * 3)
        image.save(file)


def _bomb(path):
    """Write the head of a PNG of 30,000 x 30,000 pixels."""
    head = b"IHDR" + struct.pack(">IIBBBBB", 30000, 30000, 8, 3, 0, 0, 0)
    chunk = struct.pack(">I", 13) + head + struct.pack(">I", zlib.crc32(head))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk)


def _palette(path, value):
    image = Image.fromarray(np.full((60, 45), value, np.uint8), "P")
    image.putpalette(list(range(256)) * 3)
    image.save(path)


@pytest.mark.parametrize(
    ("file", "harm", "message"),
    [
        (OBJECT, lambda p: p.unlink(), r"2007_000039\.png: missing"),
        (OBJECT, shared.truncate, r"2007_000039\.png: corrupt"),
        (OBJECT, lambda p: Image.new("RGB", (45, 60)).save(p), "RGB, not a palette"),
        (OBJECT, lambda p: Image.new("P", (45, 59)).save(p), "differs in size"),
        (SBD_LIST, lambda p: p.unlink(), r"train\.txt: missing; SBD is incomplete"),
        (VAL, lambda p: p.write_text("²007_000001"), "is not a VOC image name"),
        (OBJECT, _many_objects, "an image has 200 objects, but label maps hold 127"),
        (OBJECT, _bomb, r"2007_000039\.png: corrupt or not a label image"),
        (CLASS, lambda p: _palette(p, 21), "has label 21, above 20"),
        (CLASS, lambda p: _palette(p, 0), "no class for object 1"),
        (f"{VOC_FILES}/ImageSets", shutil.rmtree, "contains no VOC2012"),
        (VAL, lambda p: p.unlink(), "missing"),
        (VAL, lambda p: p.write_text("../../x"), "is not a VOC image name"),
        (f"{VOC_FILES}/JPEGImages/2007_000039.jpg", lambda p: p.unlink(), "missing"),
        (
            "benchmark_RELEASE/dataset/inst/2008_000002.mat",
            lambda p: p.write_bytes(b"no MATLAB file"),
            r"2008_000002\.mat: corrupt or not SBD annotations",
        ),
        (
            "benchmark_RELEASE/dataset/inst/2008_000002.mat",
            lambda p: p.unlink(),
            r"2008_000002\.mat: missing",
        ),
    ],
)
def test_malformed_voc_is_reported_and_leaves_no_store(tmp_path, file, harm, message):
    root = fixtures.write_voc(tmp_path / "published", with_sbd=True)
    harm(root / file)
    with pytest.raises(SourceError, match=message) as error:
        shared.write_store("voc", root, tmp_path)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "voc").exists()


def test_voc_classes_are_in_order():
    assert len(voc.CATEGORIES) == 20
    assert list(voc.CATEGORIES) == sorted(voc.CATEGORIES)
