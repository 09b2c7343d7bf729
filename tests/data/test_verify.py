import numpy as np
import pytest

from sanorm_jax.data import verify
from sanorm_jax.data.store import Store, StoreWriter
from tests import commands, stores


@pytest.fixture
def root(tmp_path):
    stores.write_source(tmp_path / "store", {"train": 150, "test": 3}, size=4)
    return tmp_path / "store"


def _run(root, *flags):
    done = commands.run("data.verify", f"--store={root}", *flags)
    return done.returncode, done.stdout, done.stderr


def _problems(root):
    return verify.verify(Store.open(root, allow_incomplete=True))


def test_one_flipped_bit_in_each_of_50_files_is_found(root):
    rng = np.random.default_rng(0)
    files = sorted(path for path in root.rglob("c/**/*") if path.is_file())
    chosen = [files[i] for i in rng.choice(len(files), 50, replace=False)]
    for path in chosen:
        stores.flip(path, rng.integers(path.stat().st_size), rng.integers(8))
    problems = _problems(root)
    assert sorted(problem.path for problem in problems) == sorted(chosen)
    assert all(str(problem.path) in problem.reason for problem in problems)


def test_command_distinguishes_damaged_from_missing_files(root):
    assert _run(root)[0] == 0
    lost, hurt = (root / f"train/image/c/{shard}/0/0/0" for shard in (1, 4))
    lost.unlink()
    whole = hurt.read_bytes()
    hurt.write_bytes(whole[:-1])
    code, out, _ = _run(root, "--remove_damaged")
    assert code == 1
    assert f"{lost}: missing" in out
    assert f"{hurt}: damaged" in out
    assert "1 files missing, 1 damaged" in out
    assert not hurt.exists()
    stores.write_source(root, {"train": 150, "test": 3}, size=4)
    assert hurt.read_bytes() == whole
    assert _problems(root) == []


def test_non_finite_values_are_found(tmp_path):
    writer = StoreWriter.create(
        tmp_path / "nan",
        dataset="nan",
        source={},
        settings={},
        fields={"features": ((2,), "float16")},
        splits={"train": 4},
        examples_per_shard=2,
    )
    writer.write_shard("train", 0, {"features": np.zeros((2, 2), np.float16)})
    bad = np.array([[0, 1], [np.nan, 2]], np.float16)
    writer.write_shard("train", 1, {"features": bad})
    (problem,) = _problems(tmp_path / "nan")
    assert problem.path == writer.shard_file("train", "features", 1)
    assert "non-finite" in problem.reason


@pytest.mark.parametrize("change", ['"int32"', "[151]", None])
def test_arrays_that_contradict_the_manifest_are_found(root, change):
    path = root / "train/num_objects/zarr.json"
    text = path.read_text()
    if change is None:
        path.unlink()
    elif change == "[151]":
        path.write_text(text.replace("[150]", change))
    else:
        path.write_text(text.replace(change, '"int16"'))
    (problem,) = [p for p in _problems(root) if "num_objects" in str(p.path)]
    assert problem.path == path
    assert not problem.is_shard


def test_missing_store_is_a_one_line_error(tmp_path):
    code, out, err = _run(tmp_path / "absent")
    assert (code, out) == (2, "")
    absent = tmp_path / "absent"
    assert err.splitlines()[-1].startswith(f"error: {absent}: not a store;")
    assert "Traceback" not in err
