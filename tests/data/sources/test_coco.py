"""COCO: labels against boxes by hand, files that are missing or damaged."""

import json
import shutil

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as masks

from sanorm_jax.core.errors import UserError
from sanorm_jax.data import pipeline
from sanorm_jax.data.prepare import prepare
from sanorm_jax.data.sources import coco as coco_source
from sanorm_jax.data.sources import natural_images
from sanorm_jax.data.sources.base import Options, SourceError
from sanorm_jax.data.store import Store
from tests.data import natural_image_fixtures as fixtures
from tests.data.sources import natural_images_shared as shared
from tests.data.sources.natural_images_shared import SIZE


@pytest.fixture(scope="module")
def coco(tmp_path_factory):
    return fixtures.write_coco(tmp_path_factory.mktemp("published") / "coco")


@pytest.fixture
def copy(coco, tmp_path):
    shutil.copytree(coco, tmp_path / "copy")
    return tmp_path / "copy"


def test_coco_becomes_a_store(coco, tmp_path):
    store = Store.open(shared.write_store("coco", coco, tmp_path))
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
            if photo.gray:
                gray = Image.fromarray(images[i]).convert("L").convert("RGB")
                images[i] = np.asarray(gray)
        shared.check(store, split, labels, categories, images)
        assert store.column(split, "image_id").tolist() == numbers


def test_images_can_be_selected_by_number_of_objects(coco, tmp_path):
    shared.write_store("coco", coco, tmp_path)
    dataset = pipeline.open_dataset(tmp_path, "coco")
    assert pipeline.select(dataset, "train", min_objects=1).tolist() == [0, 1, 3, 4, 5]
    assert pipeline.select(dataset, "train", max_objects=1).tolist() == [1, 2, 3, 4, 5]


def test_a_split_is_resumed_and_limited(coco, tmp_path):
    whole = Store.open(shared.write_store("coco", coco, tmp_path / "a"))
    part = Store.open(
        shared.write_store("coco", coco, tmp_path / "b", splits={"train": 3})
    )
    assert part.splits == {"train": 3}
    np.testing.assert_array_equal(
        part.column("train", "segmentation"), whole.column("train", "segmentation")[:3]
    )
    # A shard that is gone is made again from its own images alone.
    source = coco_source.build(Options(source=coco, image_size=SIZE))
    example = source.load("train", 4)
    np.testing.assert_array_equal(
        example["segmentation"], whole.read("train", "segmentation", [4])[0]
    )


def _edit(path, change):
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


INSTANCES = "annotations/instances_train2017.json"
FIRST = "train2017/000000006000.jpg"


def _edited(change):
    return lambda path: _edit(path, change)


def _annotation(**changes):
    return _edited(lambda content: content["annotations"][-1].update(changes))


def _without(field):
    return _edited(lambda content: content["annotations"][-1].pop(field))


def _polygon(*polygons):
    return _annotation(segmentation=polygons)


def _another_category(content):
    content["categories"].append({"id": 91, "name": 1})


def _same_image(content):
    content["images"].append(content["images"][0])


def _runs(counts):
    return _annotation(segmentation={"size": [60, 80], "counts": counts})


def _image(**changes):
    return _edited(lambda content: content["images"][0].update(changes))


@pytest.mark.parametrize(
    ("file", "harm", "message"),
    [
        (INSTANCES, shared.truncate, r"train2017\.json: truncated or not JSON"),
        (INSTANCES, lambda p: p.unlink(), r"instances_train2017\.json: missing"),
        (INSTANCES, lambda p: p.write_text("{}"), "has no list 'images'"),
        (INSTANCES, lambda p: p.write_text("[1]"), "not a JSON object"),
        (INSTANCES, lambda p: p.write_text("[" * 10**5), "truncated or not JSON"),
        (INSTANCES, lambda p: p.write_bytes(b"\x80\xff"), "truncated or not JSON"),
        (INSTANCES, _edited(lambda c: c["images"].pop()), "image_id: there is no 6035"),
        (INSTANCES, _edited(lambda c: c["categories"].pop()), "2: category_id"),
        (INSTANCES, _edited(_another_category), "categories differ from those of the"),
        (INSTANCES, _edited(_same_image), "image 6000: two images"),
        (INSTANCES, _without("id"), "annotation 'without an id': has no id"),
        (INSTANCES, _annotation(id=[1]), r"annotation \[1\]: id: "),
        (INSTANCES, _without("image_id"), "annotation 1: has no image_id"),
        (INSTANCES, _without("category_id"), "annotation 1: has no category_id"),
        (INSTANCES, _without("segmentation"), "annotation 1: has no segmentation"),
        (INSTANCES, _annotation(iscrowd=2), "annotation 1: iscrowd: there is no 2"),
        (INSTANCES, _annotation(iscrowd=None), "annotation 1: iscrowd: None is"),
        (INSTANCES, _annotation(category_id="1"), "1: category_id: '1' is not"),
        (INSTANCES, _annotation(category_id=12), "category_id: there is no 12"),
        (INSTANCES, _annotation(segmentation=None), "1: segmentation: is neither"),
        (INSTANCES, _annotation(segmentation=[]), "1: segmentation: has no polygon"),
        (INSTANCES, _annotation(segmentation={}), "run lengths of size None"),
        (INSTANCES, _polygon([1, 1], [9, 1], [9, 9], [1, 9]), "has no polygon"),
        (INSTANCES, _polygon([[1, 1], [9, 1], [9, 9], [1, 9]]), "not a list of num"),
        (INSTANCES, _polygon(1, 1, 9, 1, 9, 9), "not a list of numbers"),
        (INSTANCES, _polygon("123456"), "not a list of numbers"),
        (INSTANCES, _polygon([None, 0, 1, 1, 2, 2]), "not a list of numbers"),
        (INSTANCES, _polygon([1, 1, 9, 1]), "has no polygon"),
        (INSTANCES, _polygon([1, 1, 9, 1, 9]), "odd number of coordinates"),
        (INSTANCES, _polygon([1, 1, 9, 1, 9, 9, 9]), "odd number of coordinates"),
        (INSTANCES, _polygon([float("nan"), 0, 1, 1, 2, 2]), "far beyond the image"),
        (INSTANCES, _polygon([float("inf"), 0, 1, 1, 2, 2]), "far beyond the image"),
        (INSTANCES, _polygon([1e9, 0, 1, 1, 2, 2]), "far beyond the image"),
        (INSTANCES, _runs(None), "do not fill the image"),
        (INSTANCES, _runs("11"), "do not fill the image"),
        (INSTANCES, _runs(""), "do not fill the image"),
        (INSTANCES, _runs("o"), "end early"),
        (INSTANCES, _runs([-5, 4805]), "-5 is not a whole number"),
        (INSTANCES, _runs([2**33]), "do not fill the image"),
        (INSTANCES, _runs([0, 10**400]), "not a whole number"),
        (INSTANCES, _image(width="a"), "image 6000: width: 'a' is not"),
        (INSTANCES, _image(width=-80), "image 6000: width: -80 is not"),
        (INSTANCES, _image(width=0), "image 6000: width: must be 1 to"),
        (INSTANCES, _image(id=float("inf")), "image inf: id: inf is not"),
        (INSTANCES, _image(id="a\nb"), r"image 'a\\nb': id: 'a\\nb' is not"),
        (INSTANCES, _image(file_name=".."), "file_name: '..' is not"),
        (INSTANCES, _image(file_name="../x.jpg"), "file_name: '../x.jpg' is not"),
        (INSTANCES, _image(file_name=7), "file_name: "),
        (INSTANCES, _image(width=81), r"6000\.jpg: is 80 x 60 .* labels are 81 x 60"),
        (FIRST, lambda p: p.unlink(), r"000000006000\.jpg: missing"),
        (FIRST, shared.truncate, r"000000006000\.jpg: corrupt"),
        (FIRST, lambda p: p.write_text("no image"), r"000000006000\.jpg: corrupt"),
        ("train2017", shutil.rmtree, "train2017: missing"),
    ],
)
def test_malformed_coco_is_reported_and_leaves_no_store(
    copy, tmp_path, file, harm, message
):
    harm(copy / file)
    with pytest.raises(SourceError, match=message) as error:
        shared.write_store("coco", copy, tmp_path)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "coco").exists()


def test_variants_written_by_other_tools_are_read(coco, copy, tmp_path):
    """Without `iscrowd`, with whole numbers as floats and a polygon of two points."""

    def change(content):
        content["images"][0].update(width=80.0, id=6000.0)
        for annotation in content["annotations"]:
            if not annotation["iscrowd"]:
                del annotation["iscrowd"]
        content["annotations"][-1]["segmentation"].append([1, 1, 9, 1])

    _edit(copy / INSTANCES, change)
    expected = Store.open(shared.write_store("coco", coco, tmp_path / "expected"))
    found = Store.open(shared.write_store("coco", copy, tmp_path / "found"))
    for field in expected.fields:
        np.testing.assert_array_equal(
            found.column("train", field), expected.column("train", field)
        )
    assert found.manifest["source"]["splits"]["train"]["polygons_left_out"] == 1


def test_a_damaged_image_costs_no_finished_shard(copy, tmp_path, monkeypatch):
    monkeypatch.setattr(natural_images, "_PER_SHARD", 2)
    last = copy / "train2017" / "000000006035.jpg"
    content = last.read_bytes()
    shared.truncate(last)
    with pytest.raises(SourceError, match=r"000000006035\.jpg: corrupt"):
        shared.write_store("coco", copy, tmp_path)
    last.write_bytes(content)
    # Of other annotations nothing is gone on with.
    annotations = copy / INSTANCES
    before = annotations.read_text()
    _edit(annotations, lambda c: c["annotations"][0].update(id=77))
    with pytest.raises(UserError, match="written with other settings"):
        shared.write_store("coco", copy, tmp_path)
    annotations.write_text(before)
    assert Store.open(shared.write_store("coco", copy, tmp_path)).splits["train"] == 6


@pytest.mark.parametrize("seed", range(3))
def test_run_lengths_are_read_as_pycocotools_writes_them(seed):
    rng = np.random.default_rng(seed)
    inside = rng.random((37, 53)) < (0.5, 0.02, 0.98)[seed]
    runs = masks.encode(np.asfortranarray(inside.astype(np.uint8)))
    counts = runs["counts"].decode()
    found = coco_source.segmentation(
        {"size": [37, 53], "counts": counts}, {"width": 53, "height": 37}
    )
    np.testing.assert_array_equal(
        masks.decode(masks.frPyObjects(found, 37, 53)), inside
    )


@pytest.mark.parametrize(
    ("dataset", "options", "message"),
    [
        ("coco", {"source": None}, "--source: required for --dataset=coco"),
        ("voc", {"source": None}, "--source: required for --dataset=voc"),
        ("coco", {"splits": {"test": 2}}, "--splits=test: not a split of coco"),
        ("coco", {"splits": {"train": 9}}, "--splits=train:9: too many; .* at most 6"),
        ("coco", {"image_size": 8}, "--image_size=8"),
        ("coco", {"max_objects": 5}, "--max_objects: not used by --dataset=coco"),
    ],
)
def test_bad_options_are_rejected(coco, tmp_path, dataset, options, message):
    options = {"source": coco, "data_dir": tmp_path} | options
    with pytest.raises(UserError, match=message):
        prepare(dataset, Options(**options))
    assert not list(tmp_path.iterdir())


def test_an_image_of_too_many_objects_is_refused(coco, monkeypatch, tmp_path):
    monkeypatch.setattr(natural_images, "MAX_OBJECTS", 1)
    with pytest.raises(SourceError, match="has 2 objects, but label maps hold 1"):
        shared.write_store("coco", coco, tmp_path)
