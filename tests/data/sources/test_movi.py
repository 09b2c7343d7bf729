import shutil

import numpy as np
import pytest
import tensorflow_datasets as tfds

from sanorm_jax.core.errors import UserError
from sanorm_jax.data.prepare import prepare
from sanorm_jax.data.sources import movi
from sanorm_jax.data.sources.base import Options, SourceError
from sanorm_jax.data.store import Store
from tests import stores
from tests.data import movi_fixture

FRAMES = movi_fixture.NUM_FRAMES


def _prepare(dataset, path, data_dir, **options):
    return prepare(dataset, Options(source=path, data_dir=data_dir, **options))


@pytest.fixture
def copy(movi_c, tmp_path):
    shutil.copytree(movi_c, tmp_path / "copy")
    return tmp_path / "copy"


def _videos(folder, split):
    """Return the videos of a split in the order of its files."""
    config = tfds.ReadConfig(interleave_cycle_length=1)
    builder = tfds.builder_from_directory(folder)
    # These take most of the time to decode.
    images = ("depth", "normal", "object_coordinates")
    skipped = dict.fromkeys(images, tfds.decode.SkipDecoding())
    dataset = builder.as_dataset(split=split, read_config=config, decoders=skipped)
    return list(tfds.as_numpy(dataset))


def _check(store, folder):
    max_objects = store.settings["max_objects"]
    for split, count in movi_fixture.COUNTS.items():
        videos = _videos(folder, split)
        assert len(videos) == count
        columns = {field: store.column(split, field) for field in store.fields}
        for number, video in enumerate(videos):
            rows = slice(number * FRAMES, (number + 1) * FRAMES)
            found = {field: column[rows] for field, column in columns.items()}
            np.testing.assert_array_equal(found["image"], video["video"])
            labels = video["segmentations"][..., 0]
            np.testing.assert_array_equal(found["segmentation"], labels)
            n = video["metadata"]["num_instances"]
            assert (found["num_objects"] == n).all()
            category = np.full(max_objects, -1)
            category[:n] = video["instances"]["category"]
            np.testing.assert_array_equal(found["category"], [category] * FRAMES)
            real = np.arange(max_objects) < n
            np.testing.assert_array_equal(found["visibility"], [real] * FRAMES)
            assert (found["video"] == number).all()
            np.testing.assert_array_equal(found["frame"], np.arange(FRAMES))


@pytest.mark.parametrize("dataset", ["movi_c", "movi_d", "movi_e"])
def test_all_frames_of_all_videos_are_stored(movi_c, tmp_path, dataset, monkeypatch):
    is_c = dataset == "movi_c"
    if not is_c:
        monkeypatch.setattr(movi_fixture, "COUNTS", {"train": 2})
    folder = movi_c if is_c else movi_fixture.write(tmp_path / "tfds", dataset)
    assert len(list(folder.glob("*-train.tfrecord-*"))) == 2
    store = Store.open(_prepare(dataset, folder, tmp_path))
    counts = movi_fixture.COUNTS.items()
    assert store.splits == {split: FRAMES * count for split, count in counts}
    assert store.settings["max_objects"] == (10 if is_c else 23)
    assert store.settings["categories"] == list(movi_fixture.CATEGORIES)
    assert store.examples_per_shard == FRAMES
    _check(store, folder)


def test_lost_videos_are_rewritten_identically(movi_c, tmp_path):
    store = Store.open(_prepare("movi_c", movi_c, tmp_path))
    path = store.shard_file("train", "image", 1)
    content = path.read_bytes()
    path.unlink()
    _prepare("movi_c", movi_c, tmp_path)
    assert path.read_bytes() == content
    _check(Store.open(store.root), movi_c)


def test_tfds_data_dir_is_accepted_and_splits_count_frames(movi_c, tmp_path):
    above = movi_c.parents[2]
    splits = {"train": 2 * FRAMES, "validation": FRAMES}
    store = Store.open(_prepare("movi_c", above, tmp_path, splits=splits))
    assert store.splits == splits
    assert set(store.column("train", "video")) == {0, 1}


def _record_file(folder):
    return folder / "movi_c-train.tfrecord-00001-of-00002"


def _cut(path):
    path.write_bytes(path.read_bytes()[:-1000])


def _flip(path):
    stores.flip(path, path.stat().st_size // 2)


@pytest.mark.parametrize(
    "damage", [_cut, _flip, lambda path: path.write_bytes(b""), lambda p: p.unlink()]
)
def test_damaged_record_files_are_reported_and_leave_no_store(copy, tmp_path, damage):
    damage(_record_file(copy))
    with pytest.raises(SourceError, match="download it again") as error:
        _prepare("movi_c", copy, tmp_path)
    assert str(_record_file(copy)) in str(error.value)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "movi_c").exists()


def test_damaged_or_foreign_folders_are_rejected(movi_c, copy, tmp_path):
    info = copy / "dataset_info.json"
    text = info.read_text()
    for content, message in (
        (text[:200], "copy: not a MOVi builder folder"),
        (text.replace('"movi_c"', '"mnist"'), "copy: contains mnist; pass the folder"),
    ):
        info.write_text(content)
        with pytest.raises(SourceError, match=message):
            _prepare("movi_c", copy, tmp_path)
    info.unlink()
    for path, dataset, options, message in (
        (copy, "movi_c", {}, "copy: contains no dataset_info.json"),
        (movi_c, "movi_d", {}, "contains movi_c; pass the folder of movi_d"),
        (movi_c, "movi_c", {"image_size": 256}, "not 256 x 256 pixels"),
        (movi_c, "movi_c", {"image_size": 64}, "=64: not available for movi_c"),
        (movi_c, "movi_c", {"splits": {"train": 30}}, "choose a multiple of their 24"),
        (movi_c, "movi_c", {"splits": {"train": 2400}}, "too many; .* at most 72"),
        (movi_c, "movi_c", {"splits": {"extra": 24}}, "=extra: not a split"),
        (movi_c, "movi_c", {"seed": 1}, "--seed: not used"),
    ):
        with pytest.raises(UserError, match=message):
            _prepare(dataset, path, tmp_path, **options)
    assert not list(tmp_path.glob("movi_*"))


def test_too_many_objects_are_rejected(tmp_path):
    video = movi_fixture.video("train", 0, 23, True)
    video["instances"] = {"category": [i["category"] for i in video["instances"]]}
    with pytest.raises(ValueError, match=r"\d+ instances"):
        list(movi._frames(video, 0, 10))
    video["segmentations"][3, 5, 5] = 24
    with pytest.raises(ValueError, match="labels above"):
        list(movi._frames(video, 0, 23))


def test_unreachable_bucket_suggests_source(tmp_path, monkeypatch):
    def refuse(url, timeout):
        raise OSError("no route to host")

    monkeypatch.setattr(movi.urllib.request, "urlopen", refuse)
    with pytest.raises(UserError, match=r"no route to host.*with --source") as error:
        _prepare("movi_e", None, tmp_path)
    assert "kubric-public/tfds/movi_e/256x256/1.0.0" in str(error.value)
