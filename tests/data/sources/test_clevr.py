import json
import shutil
import zipfile

import numpy as np
import pytest
from PIL import Image

from sanorm_jax.core.errors import UserError
from sanorm_jax.data import properties
from sanorm_jax.data.prepare import prepare
from sanorm_jax.data.sources.base import Options, SourceError
from sanorm_jax.data.store import Store
from tests import stores
from tests.data import fixtures


def _prepare(path, data_dir, **options):
    return prepare("clevr", Options(source=path, data_dir=data_dir, **options))


@pytest.fixture
def copy(clevr, tmp_path):
    shutil.copytree(clevr[0], tmp_path / "copy")
    return tmp_path / "copy"


def test_a_folder_becomes_a_store_of_its_scenes(clevr, tmp_path):
    root, scenes = clevr
    store = Store.open(_prepare(root, tmp_path))
    # The test split has no scenes.
    assert store.splits == {"train": 5, "validation": 3}
    assert "segmentation" not in store.fields
    for split, published in (("train", "train"), ("validation", "val")):
        columns = {field: store.column(split, field) for field in store.fields}
        for number, scene in enumerate(scenes[published]):
            row = {field: column[number] for field, column in columns.items()}
            path = root / "images" / published / scene["image_filename"]
            _check_image(row["image"], path)
            _check_objects(row, scene["objects"])


def _check_image(found, path):
    with Image.open(path) as image:
        pixels = np.asarray(image.convert("RGB"))
    assert pixels.shape == (320, 480, 3)
    middle = Image.fromarray(pixels[64:256, 144:336])
    expected = np.asarray(middle.resize((128, 128), Image.Resampling.BILINEAR))
    np.testing.assert_array_equal(found, expected)


def _check_objects(row, objects):
    n = len(objects)
    assert row["num_objects"] == n
    vocabularies = {
        "shape": properties.SHAPES,
        "size": properties.SIZES,
        "material": properties.MATERIALS,
        "color": properties.COLORS,
    }
    for name, words in vocabularies.items():
        assert [words[i] for i in row[name][:n]] == [item[name] for item in objects]
        assert (row[name][n:] == -1).all()
    for i, item in enumerate(objects):
        np.testing.assert_allclose(row["position"][i], item["3d_coords"], rtol=1e-6)
        x, y, depth = item["pixel_coords"]
        expected = [(x - 144) * 128 / 192, (y - 64) * 128 / 192, depth]
        np.testing.assert_allclose(row["pixel_coords"][i], expected, atol=1e-4)
        np.testing.assert_allclose(row["rotation"][i], item["rotation"], rtol=1e-6)
    np.testing.assert_array_equal(row["visibility"], np.arange(10) < n)
    assert not row["position"][n:].any()
    assert not row["pixel_coords"][n:].any()


def test_zip_and_folder_make_the_same_store(clevr, tmp_path):
    root, _ = clevr
    archive = fixtures.zip_folder(root, tmp_path / "CLEVR_v1.0.zip")
    one = _prepare(root, tmp_path / "one")
    # Also the folder that holds the unpacked one.
    for number, path in enumerate((archive, root.parent)):
        two = _prepare(path, tmp_path / str(number))
        assert stores.files(two) == stores.files(one)


def test_splits_take_the_first_scenes(clevr, tmp_path):
    root, scenes = clevr
    store = Store.open(_prepare(root, tmp_path, splits={"train": 2}, image_size=64))
    assert store.splits == {"train": 2}
    assert store.fields["image"] == ((64, 64, 3), "uint8")
    counts = [len(scene["objects"]) for scene in scenes["train"][:2]]
    assert store.column("train", "num_objects").tolist() == counts


def test_corrupt_or_missing_image_is_reported(clevr, copy, tmp_path):
    path = copy / "images" / "train" / "CLEVR_train_000003.png"
    content = path.read_bytes()
    for hurt in (content[:5000], content[:900] + b"?" + content[901:], b"", None):
        path.write_bytes(hurt) if hurt is not None else path.unlink()
        with pytest.raises(SourceError, match=r"CLEVR_train_000003\.png: "):
            _prepare(copy, tmp_path)
        assert not (tmp_path / "clevr").exists()
    path.write_bytes(content)
    assert Store.open(_prepare(copy, tmp_path)).splits["train"] == 5


def test_damaged_zips_are_rejected(clevr, tmp_path):
    root, _ = clevr
    path = fixtures.zip_folder(root, tmp_path / "CLEVR_v1.0.zip")
    content = path.read_bytes()
    with zipfile.ZipFile(path) as archive:
        place = archive.getinfo("CLEVR_v1.0/images/val/CLEVR_val_000001.png")
        offset = place.header_offset + 500
    flipped = bytearray(content)
    flipped[offset] ^= 1
    path.write_bytes(flipped)
    with pytest.raises(SourceError, match=r"zip/.*CLEVR_val_000001\.png: unreadable"):
        _prepare(path, tmp_path)
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(
        SourceError, match=r"v1\.0\.zip: truncated, corrupt or not a zip"
    ):
        _prepare(path, tmp_path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("notes.txt", "another archive")
    with pytest.raises(SourceError, match=r"train_scenes\.json: missing"):
        _prepare(path, tmp_path)
    assert not (tmp_path / "clevr").exists()


def _crowd(text):
    content = json.loads(text)
    content["scenes"][1]["objects"] *= 4
    return json.dumps(content)


@pytest.mark.parametrize(
    "change",
    [
        lambda text: text[: len(text) * 2 // 3],
        lambda text: text.replace('"cube"', '"cone"'),
        _crowd,
        lambda text: "[]",
    ],
)
def test_damaged_or_foreign_scenes_are_rejected(copy, tmp_path, change):
    path = copy / "scenes" / "CLEVR_train_scenes.json"
    path.write_text(change(path.read_text()))
    with pytest.raises(SourceError, match=r"CLEVR_train_scenes\.json: .*scene \d"):
        _prepare(copy, tmp_path)
    assert not (tmp_path / "clevr").exists()


def test_bad_options_are_rejected(clevr, tmp_path):
    for path, options, message in (
        (None, {}, "--source: required"),
        (tmp_path / "absent", {}, "absent: not found; pass CLEVR_v1.0.zip"),
        (tmp_path, {}, "train_scenes.json: missing"),
        (clevr[0], {"splits": {"test": 1}}, "--splits=test: not a split of clevr"),
        (
            clevr[0],
            {"splits": {"train": 9}},
            "--splits=train:9: too many; choose at most 5",
        ),
        (clevr[0], {"image_size": 193}, "--image_size=193: .* choose 16 to 192"),
        (clevr[0], {"max_objects": 6}, "--max_objects: not used"),
    ):
        with pytest.raises(UserError, match=message):
            _prepare(path, tmp_path / "data", **options)
    assert not (tmp_path / "data").exists()
