"""COCO and VOC: labels against boxes by hand, files that are missing or damaged."""

import itertools
import json
import pathlib
import shutil
import struct
import zlib

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as masks
from pycocotools.coco import COCO

from sanorm_jax.data import pipeline
from sanorm_jax.data.prepare import prepare
from sanorm_jax.data.sources import coco as coco_source
from sanorm_jax.data.sources import json_arrays, photographs, voc
from sanorm_jax.data.sources.base import Options, SourceError
from sanorm_jax.data.store import Store, StoreError
from tests.data import photograph_fixtures as fixtures

SIZE = 32


@pytest.fixture(scope="module")
def coco(tmp_path_factory):
    return fixtures.write_coco(tmp_path_factory.mktemp("published") / "coco")


@pytest.fixture
def copy(coco, tmp_path):
    shutil.copytree(coco, tmp_path / "copy")
    return tmp_path / "copy"


def _prepare(dataset, path, data_dir, **options):
    options = {"image_size": SIZE} | options
    return prepare(dataset, Options(source=path, data_dir=data_dir, **options))


def _expected(labels, category, size=SIZE):
    """Returns the middle square at `size`, with what is left numbered anew."""
    height, width = labels.shape
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    result = np.zeros((size, size), int)
    for y, x in itertools.product(range(size), repeat=2):
        row, column = (int((i + 0.5) * side / size) for i in (y, x))
        result[y, x] = labels[top + row, left + column]
    kept = [i for i in range(len(category)) if (result == i + 1).any()]
    numbered = np.where(result < 0, -1, 0)
    for number, i in enumerate(kept, 1):
        numbered[result == i + 1] = number
    return numbered, [category[i] for i in kept]


def _check(store, split, labels, categories, images):
    columns = {field: store.column(split, field) for field in store.fields}
    assert len(columns["image"]) == len(labels)
    for row, expected in enumerate(labels):
        found, category = _expected(expected, categories[row])
        np.testing.assert_array_equal(columns["segmentation"][row], found)
        n = len(category)
        assert columns["num_objects"][row] == n
        assert columns["category"][row, :n].tolist() == category
        assert (columns["category"][row, n:] == -1).all()
        assert columns["visibility"][row].sum() == n
        pixels = images[row]
        side = min(pixels.shape[:2])
        top, left = ((length - side) // 2 for length in pixels.shape[:2])
        middle = Image.fromarray(pixels[top : top + side, left : left + side])
        wanted = middle.resize((SIZE, SIZE), Image.Resampling.BILINEAR)
        # JPEG keeps smooth colours within a few steps.
        difference = np.abs(columns["image"][row].astype(int) - np.asarray(wanted))
        assert difference.mean() < 4


def test_coco_becomes_a_store(coco, tmp_path):
    store = Store.open(_prepare("coco", coco, tmp_path))
    assert store.splits == {"train": 6, "validation": 4}
    assert store.settings["max_objects"] == 2
    names = [f"class {number}" for number in fixtures.IDS]
    assert store.settings["categories"] == names
    for split in store.splits:
        assert store.manifest["source"]["splits"][split]["images_without_objects"] == 1
    for split, photos in (
        ("train", fixtures.TRAIN),
        ("validation", fixtures.VALIDATION),
    ):
        found = [fixtures.labels(photo) for photo in photos]
        # The file has an image's annotations from the last to the first.
        labels, categories = [], []
        for (label, ids), photo in zip(found, photos, strict=True):
            n = len(ids)
            swapped = np.where(label > 0, n + 1 - label, label)
            labels.append(swapped)
            categories.append([fixtures.IDS.index(i) for i in ids[::-1]])
            assert n == len(photo.boxes)
        numbers = [1000 * len(photos) + 7 * i for i in range(len(photos))]
        images = [fixtures.pixels(p, n) for p, n in zip(photos, numbers, strict=True)]
        for i, photo in enumerate(photos):
            if photo.grey:
                grey = Image.fromarray(images[i]).convert("L").convert("RGB")
                images[i] = np.asarray(grey)
        _check(store, split, labels, categories, images)
        assert store.column(split, "image_id").tolist() == numbers


def test_masks_are_those_of_pycocotools(coco):
    path = coco / "annotations" / "instances_train2017.json"
    theirs = COCO(str(path))
    for annotation in theirs.loadAnns(theirs.getAnnIds()):
        image = theirs.imgs[annotation["image_id"]]
        found = coco_source.decode(
            annotation["segmentation"], image["height"], image["width"]
        )
        np.testing.assert_array_equal(found, theirs.annToMask(annotation))


def test_images_can_be_chosen_by_their_number_of_objects(coco, tmp_path):
    _prepare("coco", coco, tmp_path)
    dataset = pipeline.open_dataset(tmp_path, "coco")
    assert pipeline.select(dataset, "train", min_objects=1).tolist() == [0, 1, 3, 4, 5]
    assert pipeline.select(dataset, "train", max_objects=1).tolist() == [1, 2, 3, 4, 5]


def test_a_split_is_resumed_and_limited(coco, tmp_path):
    whole = Store.open(_prepare("coco", coco, tmp_path / "a"))
    part = Store.open(_prepare("coco", coco, tmp_path / "b", splits={"train": 3}))
    assert part.splits == {"train": 3}
    np.testing.assert_array_equal(
        part.column("train", "segmentation"), whole.column("train", "segmentation")[:3]
    )
    # A shard that is gone is made again from its own images alone.
    source = coco_source.build(Options(source=coco, image_size=SIZE))
    (example, *_) = source.examples("train", 4)
    np.testing.assert_array_equal(
        example["segmentation"], whole.read("train", "segmentation", [4])[0]
    )


def test_voc_becomes_a_store(tmp_path):
    root = fixtures.write_voc(tmp_path / "published")
    store = Store.open(_prepare("voc", root / "VOCdevkit", tmp_path))
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
        _check(store, split, labels, categories, images)
    assert store.column("train", "image_id").tolist() == [2007000032, 2007000039]


def test_images_of_sbd_join_training_but_none_of_validation(tmp_path, monkeypatch):
    root = fixtures.write_voc(tmp_path / "published", with_sbd=True)
    store = Store.open(_prepare("voc", root, tmp_path))
    assert store.splits == {"train": 4, "validation": 2}
    numbers = [2007000032, 2007000039, 2008000002, 2008000015]
    assert store.column("train", "image_id").tolist() == numbers
    # It is found from within, too.
    monkeypatch.chdir(root / "VOCdevkit" / "VOC2012")
    again = _prepare("voc", pathlib.Path(), tmp_path / "again")
    assert Store.open(again).splits["train"] == 4
    # VOC's own labels win over SBD's, which call all of the first image a bird.
    assert store.column("train", "category")[0].tolist() == [0, 14]
    assert store.column("train", "category")[3].tolist() == [4, 14]
    assert store.column("train", "category")[2].tolist() == [19, -1]


def _truncate(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def _edit(path, change):
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


INSTANCES = "annotations/instances_train2017.json"
FIRST = "train2017/000000006000.jpg"


def _polygon(polygon):
    return lambda path: _edit(
        path, lambda c: c["annotations"][-1].update(segmentation=[polygon])
    )


def _runs(counts):
    runs = {"size": [60, 80], "counts": counts}
    return lambda path: _edit(
        path, lambda c: c["annotations"][-1].update(segmentation=runs)
    )


def _image(**changes):
    return lambda path: _edit(path, lambda c: c["images"][0].update(changes))


@pytest.mark.parametrize(
    ("file", "harm", "message"),
    [
        (INSTANCES, _truncate, r"instances_train2017\.json: truncated or no annot"),
        (INSTANCES, lambda p: p.unlink(), r"instances_train2017\.json: missing"),
        (INSTANCES, lambda p: p.write_text("{}"), "has no annotations, categories"),
        (INSTANCES, lambda p: p.write_text("[1]"), "no JSON object"),
        (INSTANCES, lambda p: p.write_bytes(b"\x80\xff"), "unreadable"),
        (
            INSTANCES,
            lambda p: _edit(p, lambda c: c["images"].pop()),
            "annotation of image",
        ),
        (
            INSTANCES,
            lambda p: _edit(p, lambda c: c["annotations"][0].pop("iscrowd")),
            "annotations, id .*iscrowd",
        ),
        (
            INSTANCES,
            lambda p: _edit(p, lambda c: c["categories"].pop()),
            "categories of its own",
        ),
        (INSTANCES, _polygon([1, 1, 9, 1, 9]), None),
        (INSTANCES, _polygon([1, 1, 9, 1, 9, 9, 9]), "odd number of coordinates"),
        (INSTANCES, _polygon([None, 0, 1, 1, 2, 2]), "cannot be read"),
        (INSTANCES, _polygon([float("nan"), 0, 1, 1, 2, 2]), "far beyond the image"),
        (INSTANCES, _polygon([float("inf"), 0, 1, 1, 2, 2]), "far beyond the image"),
        (INSTANCES, _polygon([1e9, 0, 1, 1, 2, 2]), "far beyond the image"),
        (INSTANCES, _runs("11"), "do not fill the image"),
        (INSTANCES, _runs(""), "do not fill the image"),
        (INSTANCES, _runs("o"), "end early"),
        (INSTANCES, _runs([-5, 4805]), "do not fill the image"),
        (INSTANCES, _runs([2**33]), "do not fill the image"),
        (INSTANCES, _runs([0, 10**400]), "do not fill the image"),
        (INSTANCES, _image(width="a"), "images, id 6000: invalid literal"),
        (INSTANCES, _image(width=-80), "images, id 6000: sides"),
        (INSTANCES, _image(width=80.0, id=6000.0), None),
        (INSTANCES, _image(id=float("inf")), "images, id inf"),
        (INSTANCES, _image(id="a\nb"), "truncated or no annotations"),
        (INSTANCES, _image(file_name=".."), "file name"),
        (
            INSTANCES,
            lambda p: _edit(p, lambda c: c["images"][0].update(file_name="../x.jpg")),
            "file name",
        ),
        (
            INSTANCES,
            lambda p: _edit(p, lambda c: c["images"][0].update(width=81)),
            r"000000006000\.jpg: is 80 x 60 pixels, its labels 81 x 60",
        ),
        (FIRST, lambda p: p.unlink(), r"000000006000\.jpg: missing"),
        (FIRST, _truncate, r"000000006000\.jpg: corrupt"),
        (FIRST, lambda p: p.write_text("no image"), r"000000006000\.jpg: corrupt"),
        ("train2017", shutil.rmtree, "train2017: missing"),
    ],
)
def test_what_is_wrong_with_coco_is_named_and_leaves_no_store(
    copy, tmp_path, file, harm, message
):
    harm(copy / file)
    if message is None:  # odd, but told what it means
        assert _prepare("coco", copy, tmp_path).is_dir()
        return
    with pytest.raises(SourceError, match=message) as error:
        _prepare("coco", copy, tmp_path)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "coco").exists()


def test_a_damaged_image_costs_no_finished_shard(copy, tmp_path, monkeypatch):
    monkeypatch.setattr(photographs, "_PER_SHARD", 2)
    last = copy / "train2017" / "000000006035.jpg"
    content = last.read_bytes()
    _truncate(last)
    with pytest.raises(SourceError, match=r"000000006035\.jpg: corrupt"):
        _prepare("coco", copy, tmp_path)
    last.write_bytes(content)
    # Of other annotations nothing is gone on with.
    annotations = copy / INSTANCES
    before = annotations.read_text()
    _edit(annotations, lambda c: c["annotations"][0].update(id=77))
    with pytest.raises(StoreError, match="written by other settings"):
        _prepare("coco", copy, tmp_path)
    annotations.write_text(before)
    assert Store.open(_prepare("coco", copy, tmp_path)).splits["train"] == 6


@pytest.mark.parametrize("seed", range(3))
def test_run_lengths_are_read_as_pycocotools_writes_them(seed):
    rng = np.random.default_rng(seed)
    inside = rng.random((37, 53)) < (0.5, 0.02, 0.98)[seed]
    runs = masks.encode(np.asfortranarray(inside.astype(np.uint8)))
    counts = runs["counts"].decode()
    found = coco_source.decode({"size": [37, 53], "counts": counts}, 37, 53)
    np.testing.assert_array_equal(found, inside)


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
    """Writes the head of a PNG of 30,000 x 30,000 pixels."""
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
        (OBJECT, _truncate, r"2007_000039\.png: corrupt"),
        (OBJECT, lambda p: Image.new("RGB", (45, 60)).save(p), "is RGB, no palette"),
        (OBJECT, lambda p: Image.new("P", (45, 59)).save(p), "another size"),
        (SBD_LIST, lambda p: p.unlink(), r"train\.txt: missing; SBD is not whole"),
        (VAL, lambda p: p.write_text("²007_000001"), "no name of an image"),
        (OBJECT, _many_objects, "an image has 200 objects, 127 can be labelled"),
        (OBJECT, _bomb, r"2007_000039\.png: corrupt or no label image"),
        (CLASS, lambda p: _palette(p, 21), "has label 21, above 20"),
        (CLASS, lambda p: _palette(p, 0), "has no class of object 1"),
        (f"{VOC_FILES}/ImageSets", shutil.rmtree, "holds no VOC2012"),
        (
            VAL,
            lambda p: p.unlink(),
            "missing",
        ),
        (
            VAL,
            lambda p: p.write_text("../../x"),
            "no name of an image",
        ),
        (f"{VOC_FILES}/JPEGImages/2007_000039.jpg", lambda p: p.unlink(), "missing"),
        (
            "benchmark_RELEASE/dataset/inst/2008_000002.mat",
            lambda p: p.write_bytes(b"no MATLAB file"),
            r"2008_000002\.mat: corrupt or no objects of SBD",
        ),
        (
            "benchmark_RELEASE/dataset/inst/2008_000002.mat",
            lambda p: p.unlink(),
            r"2008_000002\.mat: missing",
        ),
    ],
)
def test_what_is_wrong_with_voc_is_named_and_leaves_no_store(
    tmp_path, file, harm, message
):
    root = fixtures.write_voc(tmp_path / "published", with_sbd=True)
    harm(root / file)
    with pytest.raises(SourceError, match=message) as error:
        _prepare("voc", root, tmp_path)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "voc").exists()


@pytest.mark.parametrize(
    ("dataset", "options", "message"),
    [
        ("coco", {"source": None}, "--source: must be given for --dataset=coco"),
        ("voc", {"source": None}, "--source: must be given for --dataset=voc"),
        ("coco", {"splits": {"test": 2}}, "coco has train, validation, not test"),
        ("coco", {"splits": {"train": 9}}, "--splits=train:9: has 6 images"),
        ("coco", {"image_size": 8}, "--image_size=8"),
        ("coco", {"max_objects": 5}, "--max_objects: not used by --dataset=coco"),
    ],
)
def test_bad_options_are_named(coco, tmp_path, dataset, options, message):
    options = {"source": coco, "data_dir": tmp_path} | options
    with pytest.raises(StoreError, match=message):
        prepare(dataset, Options(**options))
    assert not list(tmp_path.iterdir())


def test_an_image_of_too_many_objects_is_refused(coco, monkeypatch, tmp_path):
    monkeypatch.setattr(photographs, "MOST_OBJECTS", 1)
    with pytest.raises(SourceError, match="has 2 objects, 1 can be labelled"):
        _prepare("coco", coco, tmp_path)


@pytest.mark.parametrize("indent", [None, 1])
def test_elements_of_json_are_those_of_the_whole(indent):
    content = {"a": {"b": [1]}, "b": [{"x": "]"}, 2, []], "c": "[", "d": [], "e": [3]}
    text = f"  {json.dumps(content, indent=indent)}\n"
    found = list(json_arrays.elements(text, "b", "e", "d"))
    assert [(key, value) for key, value, _ in found] == [
        *(("b", {"x": "]"}), ("b", 2), ("b", [])),
        ("e", 3),
    ]
    for _, value, (first, last) in found:
        assert json.loads(text[first:last]) == value
    # A text that ends early never passes for a whole one.
    whole = text.rstrip()
    for end in range(len(whole)):
        with pytest.raises(ValueError):
            list(json_arrays.elements(whole[:end], "b", "e", "d"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"b": [1,]}', "nothing behind a comma"),
        ('{"b": [1],}', "nothing behind a comma"),
        ('{"b": [1 2]}', "where a comma is due"),
        ('{1: 2, "b": []}', "is no key"),
        ('{"b": []} x', "text behind the object"),
        ('{"b": [1], "b": [2]}', "'b' is there twice"),
        ('{"b": {}}', "'b' is no array"),
        ('{"a": []}', "has no b"),
    ],
)
def test_what_is_no_json_is_refused(text, message):
    with pytest.raises(ValueError, match=message):
        list(json_arrays.elements(text, "b"))


def test_the_names_of_voc_s_classes_are_in_order():
    assert len(voc.CATEGORIES) == 20
    assert list(voc.CATEGORIES) == sorted(voc.CATEGORIES)
