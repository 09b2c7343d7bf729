"""Stores as zarr-python, a reader of other make, sees them."""

import errno
import json

import numpy as np
import pytest
import zarr

from sanorm_jax.data import arrays
from sanorm_jax.data.store import Store
from tests import stores


@pytest.fixture
def root(tmp_path):
    source = stores.write_source(tmp_path / "random", {"train": 20, "validation": 5})
    stores.write_features(tmp_path / "features", source)
    return tmp_path


@pytest.mark.parametrize("name", ["random", "features"])
def test_zarr_opens_everything_from_the_root(root, name):
    group = zarr.open_group(root / name, mode="r")
    store = Store.open(root / name)
    assert group.attrs["fingerprint"] == store.fingerprint
    assert group.attrs["settings"] == store.settings
    assert sorted(group.group_keys()) == sorted(store.splits)
    for split in store.splits:
        assert sorted(group[split].array_keys()) == sorted(store.fields)
        for field in store.fields:
            values = group[f"{split}/{field}"][:]
            np.testing.assert_array_equal(values, store.column(split, field))


def test_a_missing_shard_of_features_reads_as_nan(root):
    store = Store.open(root / "features")
    store.shard_file("train", "features", 1).unlink()
    values = zarr.open_group(root / "features", mode="r")["train/features"][:]
    gone = np.isnan(values).all((1, 2))
    assert np.flatnonzero(gone).tolist() == list(range(*store.shard_range("train", 1)))


def test_groups_appear_when_the_store_is_complete(root):
    path = root / "random" / arrays.METADATA
    path.unlink()
    Store.open(root / "random").shard_file("train", "image", 0).unlink()
    source = stores.write_source(root / "random", {"train": 20, "validation": 5})
    assert source.finish()
    assert json.loads(path.read_text())["node_type"] == "group"


def test_reading_does_not_change_a_complete_store(root, monkeypatch):
    path = root / "random" / arrays.METADATA
    path.unlink()

    def refuse(path, content):
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(arrays.files, "write", refuse)
    source = stores.write_source(root / "random", {"train": 20, "validation": 5})
    assert source.finish()
    assert not path.exists()
