import errno
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys

import numpy as np
import pytest

from sanorm_jax.core.errors import UserError
from sanorm_jax.data import store
from sanorm_jax.data.store import Store, StoreWriter
from tests import stores

SPLITS = {"train": 21, "validation": 5}
FIELDS = {
    "image": ((20, 20, 3), "uint8"),  # compressed
    "features": ((16, 48), "float16"),  # gathered
    "num_objects": ((), "int32"),  # small: chunks of a shard
}
ROOT = pathlib.Path(__file__).parents[2]


def _content(split, start, stop):
    rng = np.random.default_rng(len(split))
    n = SPLITS[split]
    columns = {
        "image": rng.integers(0, 256, (n, 20, 20, 3)).astype(np.uint8),
        "features": rng.normal(size=(n, 16, 48)).astype(np.float16),
        "num_objects": rng.integers(1, 9, n).astype(np.int32),
    }
    return {name: column[start:stop] for name, column in columns.items()}


def _create(root, **changes):
    arguments = {
        "dataset": "random",
        "source": {"file": "x"},
        "settings": {"image_size": 20, "seed": 1},
        "fields": FIELDS,
        "splits": SPLITS,
        "examples_per_shard": 4,
    }
    return StoreWriter.create(root, **(arguments | changes))


def _write(writer, skip=()):
    for split in writer.splits:
        for shard in writer.missing_shards(split):
            if (split, shard) not in skip:
                content = _content(split, *writer.shard_range(split, shard))
                writer.write_shard(split, shard, content)
    return writer.finish()


@pytest.fixture
def root(tmp_path):
    assert _write(_create(tmp_path / "store"))
    return tmp_path / "store"


def _shard_files(root):
    return sorted(path for path in root.rglob("c/**/*") if path.is_file())


def test_reading_returns_what_was_written_in_any_order(root):
    store = Store.open(root)
    assert store.fields == FIELDS
    assert (store.num_examples("train"), store.num_shards("train")) == (21, 6)
    for split, n in SPLITS.items():
        expected = _content(split, 0, n)
        indices = np.random.default_rng(0).integers(0, n, 50)
        for field in FIELDS:
            found = store.read(split, field, indices)
            assert found.dtype == FIELDS[field][1]
            np.testing.assert_array_equal(found, expected[field][indices])
            np.testing.assert_array_equal(store.column(split, field), expected[field])
            assert store.read(split, field, []).shape == (0, *FIELDS[field][0])


def test_examples_of_zeros_are_stored(tmp_path):
    splits = {"train": 8}
    writer = _create(tmp_path / "zeros", splits=splits)
    zeros = {f: np.zeros((4, *shape), dtype) for f, (shape, dtype) in FIELDS.items()}
    for shard in range(2):
        writer.write_shard("train", shard, zeros)
    assert writer.missing_shards("train") == []
    assert writer.finish()
    store = Store.open(tmp_path / "zeros")
    assert not store.read("train", "features", np.arange(8)).any()
    assert len(_shard_files(tmp_path / "zeros")) == 2 * len(FIELDS)


def test_writing_resumes_and_ends_with_the_same_bytes(root, tmp_path):
    skip = {("train", 2), ("validation", 1)}
    part = tmp_path / "part"
    assert not _write(_create(part), skip)
    with pytest.raises(
        UserError, match="missing shards: train 1 of 6, validation 1 of 2"
    ):
        Store.open(part)
    some = Store.open(part, allow_incomplete=True)
    np.testing.assert_array_equal(
        some.available("train"), [i for i in range(21) if i // 4 != 2]
    )
    with pytest.raises(UserError, match="missing; run"):
        some.read("train", "features", [1, 9])

    again = _create(part)
    assert {s: again.missing_shards(s) for s in SPLITS} == {
        "train": [2],
        "validation": [1],
    }
    assert _write(again)
    assert stores.files(part) == stores.files(root)


# Overwrites the first split's shards without end; imports little, to start fast.
_WRITE_FOREVER = """
import pathlib
import sys
import numpy as np
from sanorm_jax.data.store import StoreWriter, read_manifest
root = pathlib.Path(sys.argv[1])
writer = StoreWriter(root, read_manifest(root))
content = np.load(sys.argv[2])
while True:
    for shard in range(writer.num_shards("train")):
        rows = slice(*writer.shard_range("train", shard))
        writer.write_shard("train", shard, {f: content[f][rows] for f in content})
        print("wrote", shard, flush=True)
"""


@pytest.mark.parametrize("lines", [1, 3, 8])
def test_killed_writer_leaves_only_complete_shards(root, tmp_path, lines):
    killed, content = tmp_path / "killed", tmp_path / "content.npz"
    writer = _create(killed)
    np.savez(content, **_content("train", 0, 21))
    with subprocess.Popen(
        [sys.executable, "-c", _WRITE_FOREVER, str(killed), str(content)],
        stdout=subprocess.PIPE,
        cwd=ROOT,
    ) as process:
        for _ in range(lines):
            process.stdout.readline()
        os.kill(process.pid, signal.SIGKILL)
    assert len(writer.missing_shards("train")) <= 6 - min(lines, 6)
    store = Store.open(killed, allow_incomplete=True)
    for field in FIELDS:
        found = store.read("train", field, store.available("train"))
        expected = _content("train", 0, 21)[field][store.available("train")]
        np.testing.assert_array_equal(found, expected)
    assert _write(writer)
    for path in _shard_files(root):
        twin = killed / path.relative_to(root)
        assert twin.read_bytes() == path.read_bytes()


def test_every_flipped_bit_is_found_and_its_file_named(root):
    rng = np.random.default_rng(0)
    for path in _shard_files(root):
        before = path.read_bytes()
        for byte in rng.integers(0, len(before), 4):
            stores.flip(path, byte, rng.integers(8))
            split, field = path.relative_to(root).parts[:2]
            with pytest.raises(UserError) as error:
                Store.open(root).column(split, field)
            assert str(path) in str(error.value)
            assert "damaged" in str(error.value)
            assert "\n" not in str(error.value)
            path.write_bytes(before)


@pytest.mark.parametrize("length", [0, 10, -1])
def test_truncated_files_are_damaged(root, length):
    path = root / "train/features/c/2/0/0"
    path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(UserError, match="features/c/2/0/0: damaged"):
        Store.open(root).read("train", "features", [8])
    assert len(Store.open(root).read("train", "features", [3, 12])) == 2


@pytest.mark.parametrize(
    ("changes", "difference"),
    [
        ({"settings": {"image_size": 20, "seed": 2}}, "seed: 1 recorded, 2 now"),
        ({"splits": SPLITS | {"train": 22}}, "train.num_examples: 21 recorded, 22 now"),
        ({"dataset": "else"}, "dataset: 'random' recorded, 'else' now"),
        ({"source": {}}, "file: 'x' recorded, None now"),
    ],
)
def test_other_settings_are_reported_and_nothing_is_overwritten(
    root, changes, difference
):
    before = stores.files(root)
    with pytest.raises(UserError, match="written with other settings") as error:
        _create(root, **changes)
    assert difference in str(error.value)
    after = stores.files(root)
    assert after == before


def test_folder_that_is_not_a_store_is_not_changed(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match="is not a store"):
        _create(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]
    with pytest.raises(UserError, match="not a store"):
        Store.open(tmp_path / "absent")
    with pytest.raises(UserError, match="not writable"):
        _create(tmp_path / "notes.txt" / "store")


def test_first_of_concurrent_jobs_creates_the_store(tmp_path, monkeypatch):
    root = tmp_path / "store"

    def beaten(path, content, create=store.files.create):
        # Another job is there between the look and the writing.
        monkeypatch.setattr(store.files, "create", create)
        assert _write(_create(root))
        create(path, content)

    monkeypatch.setattr(store.files, "create", beaten)
    with pytest.raises(UserError, match="seed: 1 recorded, 2 now"):
        _create(root, settings={"image_size": 20, "seed": 2})
    assert Store.open(root).manifest["settings"]["seed"] == 1
    shutil.rmtree(root)
    monkeypatch.setattr(store.files, "create", beaten)
    assert _create(root).finish()
    assert not list(root.glob(".*"))


def test_job_killed_while_creating_a_store_does_not_block_the_next(tmp_path):
    (tmp_path / ".manifest.json.node.7").write_text('{"form')
    assert _write(_create(tmp_path))


def test_store_works_without_hard_links(tmp_path, monkeypatch):
    def refuse(self, target):
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(pathlib.Path, "hardlink_to", refuse)
    assert _write(_create(tmp_path / "store"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"version": 99}, "version 99 is not supported"),
        ({"format": "else"}, "not the manifest of a sanorm store"),
        ({"settings": {"image_size": 7}}, "its fingerprint does not match"),
        ({"splits": None}, "its fingerprint does not match"),
    ],
)
def test_changed_manifest_is_rejected(root, change, message):
    path = root / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(UserError, match=message):
        Store.open(root)
    path.write_text("{")
    with pytest.raises(UserError, match="unreadable"):
        Store.open(root)


def test_wrong_columns_and_examples_are_rejected(root, tmp_path):
    writer = _create(tmp_path / "new")
    good = _content("train", 0, 4)
    with pytest.raises(UserError, match="pass float16"):
        writer.write_shard("train", 0, good | {"features": good["image"]})
    with pytest.raises(UserError, match="has fields"):
        writer.write_shard("train", 0, {"image": good["image"]})
    assert 0 in writer.missing_shards("train")
    store = Store.open(root)
    with pytest.raises(UserError, match=r"no examples 3 to 21 in train; .* 0 to 20"):
        store.read("train", "image", [3, 21])
    with pytest.raises(UserError, match="no field depth"):
        store.read("train", "depth", [0])
    with pytest.raises(UserError, match="no split test"):
        store.read("test", "image", [0])


def test_the_fingerprint_is_a_function_of_the_content(root, tmp_path):
    same = _create(tmp_path / "elsewhere", examples_per_shard=5)
    other = _create(tmp_path / "other", settings={"image_size": 20, "seed": 3})
    assert Store.open(root).fingerprint == same.fingerprint != other.fingerprint
