"""CLEVR with masks and Tetrominoes, from files in their true format."""

import gzip
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf

from sanorm_jax.core.errors import UserError
from sanorm_jax.data import properties
from sanorm_jax.data.prepare import prepare
from sanorm_jax.data.sources.base import Options
from sanorm_jax.data.store import Store
from tests.data import fixtures

SPLITS = {"train": 4, "validation": 2, "test": 1}


def _prepare(dataset, source, data_dir, **options):
    root = prepare(dataset, Options(source=source, data_dir=data_dir, **options))
    return Store.open(root)


@pytest.fixture(scope="module")
def clevr_store(scenes, tmp_path_factory):
    path, _ = scenes
    data_dir = tmp_path_factory.mktemp("datasets")
    return _prepare("clevr_with_masks", path, data_dir, splits=SPLITS)


def _all(store, field):
    return np.concatenate([store.column(split, field) for split in store.splits])


def test_scenes_are_those_of_the_file_in_its_order(scenes, clevr_store):
    _, values = scenes
    # The middle 192 x 192 pixels, rows 24 to 216 and columns 64 to 256, nearest.
    source = [int(i * 1.5) for i in range(128)]
    for i, scene in enumerate(values):
        image, labels = scene["image"][24:216, 64:256], np.zeros((192, 192), int)
        for entity in range(1, 11):
            labels[scene["mask"][entity, 24:216, 64:256, 0] > 0] = entity
        np.testing.assert_array_equal(
            _all(clevr_store, "image")[i], image[source][:, source]
        )
        np.testing.assert_array_equal(
            _all(clevr_store, "segmentation")[i], labels[source][:, source]
        )
    assert clevr_store.splits == SPLITS


def test_objects_keep_the_order_of_their_masks(scenes, clevr_store):
    _, values = scenes
    counts = [int(scene["visibility"][1:].sum()) for scene in values]
    assert _all(clevr_store, "num_objects").tolist() == counts
    for i, (scene, count) in enumerate(zip(values, counts, strict=True)):
        row = {f: _all(clevr_store, f)[i] for f in clevr_store.fields}
        real = slice(1, count + 1)
        xyz = np.stack([scene[axis][real] for axis in "xyz"], -1)
        np.testing.assert_allclose(row["position"][:count], xyz, rtol=1e-6)
        np.testing.assert_allclose(row["rotation"][:count], scene["rotation"][real])
        corner = scene["pixel_coords"][real, :2] - [64, 24]
        np.testing.assert_allclose(
            row["pixel_coords"][:count, :2], corner * 128 / 192, rtol=1e-4, atol=1e-4
        )
        np.testing.assert_array_equal(row["shape"][:count], scene["shape"][real] - 1)
        np.testing.assert_array_equal(row["color"][:count], scene["color"][real] - 1)
        # Code 1 is a large object.
        large = properties.SIZES.index("large")
        np.testing.assert_array_equal(
            row["size"][:count] == large, scene["size"][real] == 1
        )
        np.testing.assert_array_equal(row["visibility"], np.arange(10) < count)
        for name in ("shape", "size", "material", "color"):
            assert (row[name][count:] == -1).all()
        assert not row["position"][count:].any()


def test_tetrominoes_are_those_of_the_file(tetrominoes, tmp_path):
    path, values = tetrominoes
    splits = {"train": 6, "validation": 2}
    store = _prepare("tetrominoes", path, tmp_path, splits=splits)
    for i, image in enumerate(values[:8]):
        row = {f: _all(store, f)[i] for f in store.fields}
        np.testing.assert_array_equal(row["image"], image["image"])
        labels = (image["mask"][..., 0] > 0).argmax(0)
        np.testing.assert_array_equal(row["segmentation"], labels)
        assert row["num_objects"] == 3
        np.testing.assert_array_equal(row["shape"], image["shape"][1:] - 1)
        np.testing.assert_allclose(row["pixel_coords"][:, 0], image["x"][1:], rtol=1e-6)


def test_lost_shards_are_rewritten_identically(tetrominoes, tmp_path):
    path, _ = tetrominoes
    splits = {"train": 5, "validation": 3}
    store = _prepare("tetrominoes", path, tmp_path, splits=splits)
    lost = store.shard_file("validation", "image", 0)
    content = lost.read_bytes()
    lost.unlink()
    again = _prepare("tetrominoes", path, tmp_path, splits=splits)
    assert lost.read_bytes() == content
    assert again.fingerprint == store.fingerprint


def _truncated(path, target):
    target.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])


def _no_gzip(path, target):
    target.write_bytes(os.urandom(4096))


def _no_records(path, target):
    target.write_bytes(gzip.compress(b"some text" * 999))


def _flipped(path, target):
    # In the raw stream, so that TFRecord's own checksum must find it.
    raw = bytearray(gzip.decompress(path.read_bytes()))
    raw[len(raw) * 2 // 3] ^= 4
    target.write_bytes(gzip.compress(bytes(raw), 1))


def _empty(path, target):
    target.write_bytes(b"")


@pytest.mark.parametrize(
    "damage", [_truncated, _no_gzip, _no_records, _flipped, _empty]
)
def test_damaged_files_are_reported_and_leave_no_store(damage, tetrominoes, tmp_path):
    path, _ = tetrominoes
    bad = tmp_path / "bad.tfrecords"
    damage(path, bad)
    with pytest.raises(UserError, match=r"bad\.tfrecords.*download it again") as caught:
        _prepare("tetrominoes", bad, tmp_path, splits={"train": 9})
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "tetrominoes").exists()


def test_damaged_file_does_not_remove_a_finished_store(tetrominoes, tmp_path):
    path, _ = tetrominoes
    there = _prepare("tetrominoes", path, tmp_path, splits={"train": 9})
    bad = tmp_path / path.name
    _truncated(path, bad)
    with pytest.raises(UserError, match="written with other settings"):
        _prepare("tetrominoes", bad, tmp_path, splits={"train": 9})
    assert Store.open(there.root).manifest["complete"]


def test_file_of_another_dataset_is_rejected(tetrominoes, scenes, tmp_path):
    message = r"%s_train.*: record 0 .*; pass the file of the dataset"
    with pytest.raises(UserError, match=message % "tetrominoes"):
        _prepare("clevr_with_masks", tetrominoes[0], tmp_path)
    with pytest.raises(UserError, match=message % "clevr_with_masks"):
        _prepare("tetrominoes", scenes[0], tmp_path)
    assert not list(tmp_path.iterdir())


def test_requesting_too_many_examples_is_an_error(tetrominoes, tmp_path):
    path, _ = tetrominoes
    with pytest.raises(UserError, match=r"has 9 records, but the splits need 12"):
        _prepare("tetrominoes", path, tmp_path, splits={"train": 8, "test": 4})
    assert not (tmp_path / "tetrominoes").exists()


def test_tetrominoes_have_a_fixed_size(tetrominoes, tmp_path):
    with pytest.raises(UserError, match=r"--image_size=64: .* choose 35"):
        _prepare("tetrominoes", tetrominoes[0], tmp_path, image_size=64)


def test_missing_file_is_reported(tmp_path):
    with pytest.raises(UserError, match=r"nowhere.*not found"):
        _prepare("tetrominoes", tmp_path / "nowhere.tfrecords", tmp_path)


def test_an_unknown_code_names_the_record(tmp_path):
    rng = np.random.default_rng(0)
    scene = fixtures.clevr_scene(rng, 2)
    scene["shape"][2] = 4
    path = tmp_path / "clevr.tfrecords"
    fixtures.write_scenes(path, [scene])
    with pytest.raises(UserError, match=r"clevr\.tfrecords: record 0 has shape"):
        _prepare("clevr_with_masks", path, tmp_path, splits={"train": 1})


# Prints the largest resident memory in KiB of a process of its own. Unlike the kernel's
# `ru_maxrss`, it does not begin with that of the process that started it.
_PREPARE_AND_MEASURE = """
import pathlib, re, sys
from sanorm_jax.data.prepare import prepare
from sanorm_jax.data.sources.base import Options

path = pathlib.Path(sys.argv[1])
options = Options(source=path, splits={"train": 1500}, data_dir=path.parent)
prepare("clevr_with_masks", options)
print(re.search(r"VmHWM:\\s*(\\d+)", pathlib.Path("/proc/self/status").read_text())[1])
"""


@pytest.mark.long
def test_memory_does_not_grow_with_the_file(scenes, tmp_path):
    path, _ = scenes
    record = next(
        tf.data.TFRecordDataset(str(path), compression_type="GZIP").as_numpy_iterator()
    )
    big = tmp_path / "big.tfrecords"
    with tf.io.TFRecordWriter(str(big), "GZIP") as writer:
        for _ in range(1500):  # 4.8 GB unpacked
            writer.write(record)
    command = [sys.executable, "-c", _PREPARE_AND_MEASURE, big]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    shutil.rmtree(tmp_path / "clevr_with_masks")
    assert int(done.stdout) < 2 * 1024**2
