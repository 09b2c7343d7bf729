"""Staging by real processes: what they share, and what they leave when killed."""

import os
import pathlib
import shutil
import subprocess
import sys
import time

import numpy as np
import pytest

from sanorm_jax.data import staging
from sanorm_jax.data.store import Store, StoreError
from tests import stores

ROOT = pathlib.Path(__file__).parents[2]
SPLITS = {"train": 96, "validation": 8, "test": 4}
PER_SHARD = 2

# Stages, says so, and goes on using the copy until it is told to end.
_STAGE = """
import sys
from absl import logging
from sanorm_jax.data import staging
from sanorm_jax.data.store import Store, StoreError
logging.set_verbosity(logging.INFO)
try:
    store = staging.stage(Store.open(sys.argv[1]), sys.argv[2], sys.argv[3:])
except StoreError as error:
    sys.exit(f"error: {error}")
print("staged", flush=True)
sys.stdin.readline()
store.read("train", "image", [0, 95])
print("read", flush=True)
"""


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    root = tmp_path_factory.mktemp("bulk") / "shapes"
    stores.write_source(root, SPLITS, per_shard=PER_SHARD)
    return Store.open(root)


def _start(source, stage_dir, *splits):
    return subprocess.Popen(
        [
            *(sys.executable, "-c", _STAGE, str(source.root), str(stage_dir)),
            *(splits or ("train", "validation")),
        ],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def _wait_until_staged(process):
    assert process.stdout.readline() == "staged\n", process.stderr.read()


def _end(process):
    out, err = process.communicate("\n")
    assert process.returncode == 0, err
    assert out.endswith("read\n")
    return err


def _kill(process):
    process.kill()
    process.communicate()
    assert process.returncode == -9


def _copies(stage_dir):
    return [path for path in stage_dir.glob("sanorm_staged/*") if path.is_dir()]


def _shards(root):
    # Walked, for folders vanish while a process stages.
    paths = [
        pathlib.Path(folder, name)
        for folder, _, names in os.walk(root)
        for name in names
    ]
    return {
        path.relative_to(root): path
        for path in paths
        if "c" in path.parts and ".partial" not in path.parts
    }


def _assert_whole(source, root):
    wanted = {
        name: path
        for name, path in _shards(source.root).items()
        if name.parts[0] in ("train", "validation")
    }
    found = _shards(root)
    assert found.keys() == wanted.keys()
    for name, path in wanted.items():
        assert found[name].read_bytes() == path.read_bytes()


def test_only_the_splits_asked_for_are_copied_and_then_removed(source, tmp_path):
    process = _start(source, tmp_path)
    _wait_until_staged(process)
    (root,) = _copies(tmp_path)
    _assert_whole(source, root)
    assert not (root / ".partial").exists()
    copy = Store(root, source.manifest, ["train", "validation"])
    for field in source.fields:
        np.testing.assert_array_equal(
            copy.column("train", field), source.column("train", field)
        )
    with pytest.raises(StoreError, match="has no split test"):
        copy.num_examples("test")
    err = _end(process)
    assert f"staged {source.root} at {root}" in err
    assert _copies(tmp_path) == []


def test_a_killed_staging_is_taken_up_where_it_stopped(source, tmp_path):
    rng, partly = np.random.default_rng(0), 0
    for _ in range(3):
        kept = {p: p.stat().st_ino for p in _shards(tmp_path).values()}
        process = _start(source, tmp_path)
        enough = len(kept) + rng.integers(1, 60)
        while process.poll() is None and len(_shards(tmp_path)) < enough:
            time.sleep(0.001)
        _kill(process)
        (root,) = _copies(tmp_path)
        found = _shards(root)
        # What is in place is whole, and was not copied twice.
        for name, path in found.items():
            assert path.read_bytes() == (source.root / name).read_bytes()
        assert all(path.stat().st_ino == kept[path] for path in kept)
        partly += 0 < len(found) < len(_shards(source.root)) - 2 * len(source.fields)
    assert partly
    process = _start(source, tmp_path)
    _wait_until_staged(process)
    _assert_whole(source, root)
    assert not (root / ".partial").exists()
    assert f"checking {root}" in _end(process)
    assert _copies(tmp_path) == []


def test_what_a_killed_process_left_is_read_again_before_it_is_used(source, tmp_path):
    process = _start(source, tmp_path)
    _wait_until_staged(process)
    _kill(process)
    (root,) = _copies(tmp_path)
    hurt = root / "train/image/c/7/0/0/0"
    content = bytearray(hurt.read_bytes())
    content[9] ^= 2
    hurt.write_bytes(content)
    process = _start(source, tmp_path)
    _wait_until_staged(process)
    _assert_whole(source, root)
    err = _end(process)
    assert f"{hurt}: damaged" in err
    assert ": 1 files, 0.00 GB" in err


def test_what_nobody_uses_is_removed_by_the_next_start(source, tmp_path):
    other = tmp_path / "other"
    stores.write_source(other, {"train": 96}, size=8)
    stage_dir = tmp_path / "stage"
    used, killed = _start(source, stage_dir), _start(Store.open(other), stage_dir)
    for process in (used, killed):
        _wait_until_staged(process)
    assert len(_copies(stage_dir)) == 2
    _kill(killed)
    left = [root for root in _copies(stage_dir) if root.name.startswith("other")]
    again = _start(source, stage_dir)
    _wait_until_staged(again)
    assert not left[0].exists()
    assert f"removed {left[0]}" in _end(again)
    # Whoever uses a copy keeps it.
    (root,) = _copies(stage_dir)
    _assert_whole(source, root)
    _end(used)
    assert _copies(stage_dir) == []


def test_processes_of_a_node_share_one_copy(source, tmp_path):
    processes = [_start(source, tmp_path) for _ in range(3)]
    for process in processes:
        _wait_until_staged(process)
    (root,) = _copies(tmp_path)
    _assert_whole(source, root)
    logs = []
    for process in processes:
        assert root.exists()
        logs.append(_end(process))
    assert sum(f"staged {source.root} at {root}" in err for err in logs) == 1, logs
    # What another process uses was checked by it.
    assert not any("checking" in err for err in logs)
    assert _copies(tmp_path) == []


def test_a_second_process_adds_its_own_splits(source, tmp_path):
    first, second = _start(source, tmp_path), None
    _wait_until_staged(first)
    second = _start(source, tmp_path, "train", "test")
    _wait_until_staged(second)
    (root,) = _copies(tmp_path)
    assert _shards(root).keys() == _shards(source.root).keys()
    assert f": {2 * len(source.fields)} files" in _end(second)
    _end(first)


def test_too_little_room_is_refused_before_anything_is_copied(source, small_disk):
    with small_disk("256k") as disk:
        process = _start(source, disk)
        out, err = process.communicate()
        assert (process.returncode, out) == (1, "")
        (line,) = err.splitlines()
        assert line.startswith(f"error: config.stage_dir={disk}: {source.root} needs ")
        assert " GB are free; choose another folder, or none to read from" in line
        assert _copies(disk) == []


def test_a_disk_that_fills_up_meanwhile_is_an_error_of_one_line(
    source, small_disk, monkeypatch
):
    with small_disk("256k") as disk:
        monkeypatch.setattr(
            shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(1, 0, 10**9)
        )
        with pytest.raises(StoreError) as error:
            staging.stage(source, disk, ["train"])
        assert str(error.value).startswith(f"config.stage_dir={disk}: {source.root} ")
        assert "No space left on device" in str(error.value)
        # Its lock, else held to the end of the process, keeps the disk busy.
        staging.release()
        assert _copies(disk) == []


def test_a_damaged_source_is_named_and_not_staged(source, tmp_path):
    root = tmp_path / "bulk"
    shutil.copytree(source.root, root)
    hurt = root / "validation/image/c/2/0/0/0"
    content = bytearray(hurt.read_bytes())
    content[5] ^= 1
    hurt.write_bytes(content)
    process = _start(Store.open(root), tmp_path / "stage")
    _, err = process.communicate()
    assert process.returncode == 1
    assert err.splitlines()[-1].startswith(f"error: {hurt}: damaged")
    assert _copies(tmp_path / "stage") == []


def test_a_file_in_place_of_the_folder_is_refused(source, tmp_path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(StoreError, match=r"config.stage_dir=.*Not a directory"):
        staging.stage(source, tmp_path / "file", ["train"])
