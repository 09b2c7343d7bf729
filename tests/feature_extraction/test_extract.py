"""Extraction by real processes: what they write, and what they leave when killed."""

import contextlib
import json
import shutil
import subprocess

import numpy as np
import pytest

from sanorm_jax.core.errors import UserError
from sanorm_jax.data.store import Store
from sanorm_jax.feature_extraction import features
from sanorm_jax.feature_extraction.options import Options
from tests import commands, stores

SPLITS = {"train": 900, "validation": 30}
PER_SHARD = 6
NUM_SHARDS = 150 + 5
SIZE = 16


def _write_source(root, splits, seed=0):
    def make(rng, n):
        return {"image": rng.integers(0, 256, (n, SIZE, SIZE, 3), np.uint8)}

    settings = {"image_size": SIZE, "seed": seed}
    stores.write(root, make, splits, PER_SHARD, settings=settings)


def _start(data_dir, *flags, encoder="patches"):
    common = "--dataset=random", f"--encoder={encoder}", f"--data_dir={data_dir}"
    return subprocess.Popen(
        commands.command("feature_extraction.extract", *common, *flags),
        cwd=commands.ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def _end(process):
    out, err = process.communicate()
    assert not out
    assert "Traceback" not in err
    return process.returncode, err


def _run(data_dir, *flags, **changes):
    return _end(_start(data_dir, *flags, **changes))


def _shards(files):
    return {path for path in files if "c" in path.parts and path.name == "0"}


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    root = tmp_path_factory.mktemp("source") / "random"
    _write_source(root, SPLITS)
    return root


@pytest.fixture(scope="module")
def expected(source, tmp_path_factory):
    """Return the files that an extraction writes which nothing interrupts."""
    data_dir = tmp_path_factory.mktemp("uninterrupted")
    (data_dir / "random").symlink_to(source)
    code, err = _run(data_dir)
    assert code == 0, err
    files = stores.files(data_dir / "random-patches")
    assert len(_shards(files)) == NUM_SHARDS
    return files


@pytest.fixture
def data_dir(source, tmp_path):
    (tmp_path / "random").symlink_to(source)
    return tmp_path


def _shard_files(root):
    return [path for path in root.glob("*/features/c/*/*/*") if path.suffix == ""]


def _kill_and_resume(data_dir, expected, num_kills, seed):
    """Kills extractions at random moments; returns how many shards each had done."""
    root = data_dir / "random-patches"
    rng, done = np.random.default_rng(seed), []
    while len(done) < num_kills:
        before = {path: path.stat().st_mtime_ns for path in _shard_files(root)}
        process = _start(data_dir, "--batch_size=2")
        with contextlib.suppress(subprocess.TimeoutExpired):
            while process.poll() is None and len(_shard_files(root)) <= len(before):
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(0.001)
            process.wait(rng.uniform(0, 0.05))
        process.kill()
        _, err = process.communicate()
        assert process.returncode in (0, -9), err
        found = stores.files(root)
        # What is there is whole, and was not written twice.
        shards = _shards(found)
        assert all(found[path] == expected[path] for path in shards)
        assert all(path.stat().st_mtime_ns == at for path, at in before.items())
        if process.returncode == 0:
            shutil.rmtree(root)
            continue
        done.append(len(shards))
        if len(shards) < NUM_SHARDS:
            with pytest.raises(UserError, match=r"incomplete \(missing shards: train"):
                Store.open(root)
    code, err = _run(data_dir)
    assert code == 0, err
    assert stores.files(root) == expected
    return done


def test_killed_extraction_resumes_to_the_same_bytes(data_dir, expected):
    done = _kill_and_resume(data_dir, expected, num_kills=3, seed=0)
    assert any(0 < count < NUM_SHARDS for count in done)


@pytest.mark.long
def test_extraction_survives_20_random_kills(data_dir, expected):
    done = _kill_and_resume(data_dir, expected, num_kills=20, seed=1)
    assert sum(0 < count < NUM_SHARDS for count in done) >= 10


def test_second_start_writes_nothing_and_logs_it(data_dir, expected):
    assert _run(data_dir)[0] == 0
    root = data_dir / "random-patches"
    before = {path: path.stat().st_mtime_ns for path in root.rglob("*")}
    code, err = _run(data_dir)
    assert code == 0
    assert len(err.splitlines()) == 1
    assert f"nothing to do, complete: {root}" in err
    assert {path: path.stat().st_mtime_ns for path in root.rglob("*")} == before


def test_store_records_its_source(data_dir, source):
    assert _run(data_dir, "--splits=validation")[0] == 0
    manifest = json.loads((data_dir / "random-patches/manifest.json").read_text())
    fingerprint = Store.open(source).fingerprint
    assert manifest["dataset"] == "random"
    assert manifest["source"] == {"name": "random", "fingerprint": fingerprint}
    assert manifest["settings"]["encoder"] == "patches"
    assert manifest["settings"]["source_fingerprint"] == fingerprint
    assert not manifest["complete"]


def test_concurrent_array_jobs_complete_the_store(data_dir, expected):
    jobs = [_start(data_dir, f"--shard={i}/3") for i in range(3)]
    ended = [_end(job) for job in jobs]
    assert [code for code, _ in ended] == [0, 0, 0], ended
    assert any(" complete: " in err for _, err in ended), ended
    assert stores.files(data_dir / "random-patches") == expected


def test_array_job_writes_only_its_share(data_dir, expected):
    root = data_dir / "random-patches"
    code, err = _run(data_dir, "--shard=1/4", "--splits=train")
    assert code == 0
    found = stores.files(root)
    shards = _shards(found)
    assert {path.parts[0] for path in shards} == {"train"}
    assert sorted(int(path.parts[3]) for path in shards) == list(range(1, 150, 4))
    assert f"incomplete: {NUM_SHARDS - len(shards)} shards" in err
    with pytest.raises(UserError, match="incomplete"):
        Store.open(root)


def test_two_jobs_may_write_the_same_shards(data_dir, expected):
    ended = [_end(job) for job in [_start(data_dir), _start(data_dir)]]
    assert [code for code, _ in ended] == [0, 0], ended
    assert stores.files(data_dir / "random-patches") == expected


def test_repair_rewrites_only_damaged_shards(data_dir, expected):
    assert _run(data_dir)[0] == 0
    root = data_dir / "random-patches"
    deleted, flipped = (root / f"train/features/c/{i}/0/0" for i in (7, 40))
    deleted.unlink()
    stores.flip(flipped, 20, 2)
    before = {path: path.stat().st_mtime_ns for path in _shard_files(root)}

    # Without --repair, finished shards are not read.
    code, err = _run(data_dir)
    assert code == 0
    assert f"wrote {PER_SHARD} images" in err
    with pytest.raises(UserError, match=f"{flipped}: damaged"):
        Store.open(root).read("train", "features", [40 * PER_SHARD])

    code, err = _run(data_dir, "--repair")
    assert code == 0
    assert f"checked {NUM_SHARDS} finished shards: 1 damaged" in err
    assert str(flipped) in err
    assert f"wrote {PER_SHARD} images" in err
    assert stores.files(root) == expected
    kept = before.keys() - {flipped}
    assert all(path.stat().st_mtime_ns == before[path] for path in kept)


def test_a_full_disk_keeps_finished_shards(source, expected, small_disk):
    with small_disk("256k") as disk:
        (disk / "random").symlink_to(source)
        code, err = _run(disk)
        assert code == 2
        line = err.splitlines()[-1]
        assert line.startswith(f"error: {disk}/random-patches: shard ")
        assert "such as a full disk, and run the command again" in line
        found = stores.files(disk / "random-patches")
        shards = _shards(found)
        assert 0 < len(shards) < NUM_SHARDS
        assert all(found[path] == expected[path] for path in shards)
        subprocess.run(["mount", "-o", "remount,size=16m", str(disk)], check=True)
        assert _run(disk)[0] == 0
        assert stores.files(disk / "random-patches") == expected


def test_bad_input_is_a_one_line_error(data_dir):
    _write_source(data_dir / "short", {"train": 6}, seed=1)
    (data_dir / "short/train/image/c/0/0/0/0").unlink()
    bad = {
        ("--shard=3/3",): "--shard=3/3: invalid; use I/N with I from 0 to N-1",
        ("--shard=1",): "--shard=1: invalid; use I/N",
        ("--splits=test",): "--splits=test: ",
        ("--batch_size=0",): "--batch_size=0: not positive",
        (
            "--patch_size=5",
        ): "--patch_size=5: does not divide the images; choose a divisor of 16 x",
        ("--layer=1",): "--layer=1: not used by --encoder=patches",
        ("--no-final-norm",): "--final_norm=False: not used by",
        ("--dataset=else", "--name=random"): "--dataset=else: ",
        ("--name=absent",): f"{data_dir}/absent: not a store",
        ("--name=short",): f"{data_dir}/short: incomplete",
    }
    jobs = {flags: _start(data_dir, *flags) for flags in bad}
    for flags, job in jobs.items():
        code, err = _end(job)
        assert code == 2, flags
        assert err.startswith(f"error: {bad[flags]}"), err
        assert len(err.splitlines()) == 1, err
    assert not list(data_dir.glob("*-patches"))


def test_store_with_other_settings_is_not_changed(data_dir, expected):
    assert _run(data_dir)[0] == 0
    root = data_dir / "random-patches"
    code, err = _run(data_dir, "--patch_size=4")
    assert code == 2
    assert "patch_size: 8 recorded, 4 now" in err
    # A source that was written anew is another one too.
    (data_dir / "random").unlink()
    _write_source(data_dir / "random", SPLITS | {"train": 12}, seed=1)
    code, err = _run(data_dir)
    assert code == 2
    assert "source_fingerprint: " in err
    assert len(err.splitlines()) == 1
    assert stores.files(root) == expected


def test_damaged_source_is_reported_and_shards_are_kept(tmp_path):
    _write_source(tmp_path / "random", {"train": 60})
    path = tmp_path / "random/train/image/c/8/0/0/0"
    stores.flip(path, 30)
    code, err = _run(tmp_path)
    assert code == 2
    assert f"{path}: damaged" in err.splitlines()[-1]


def _weights(path, scale=1.0):
    import timm
    import torch

    torch.manual_seed(0)
    model = timm.create_model("test_vit", num_classes=0, img_size=32)
    state = model.state_dict()
    state["blocks.2.mlp.fc2.bias"] += scale
    torch.save(state, path)
    return path


def test_vits_are_extracted_by_the_same_command(tmp_path):
    _write_source(tmp_path / "random", {"train": 20})
    weights = _weights(tmp_path / "good.pt")
    code, err = _run(
        tmp_path,
        f"--weights={weights}",
        "--input_size=32",
        "--device=cpu",
        "--layer=2",
        "--no-final-norm",
        encoder="test_vit",
    )
    assert code == 0, err
    store = Store.open(tmp_path / "random-test_vit")
    assert store.settings["layer"] == 2
    assert store.settings["final_norm"] is False
    assert store.fields == {"features": ((4, 64), "float16")}
    found = store.column("train", "features")
    assert np.isfinite(found).all()
    assert (found != 0).any((1, 2)).all()


def test_features_too_large_for_float16_are_rejected(tmp_path):
    """They would be infinite."""
    _write_source(tmp_path / "random", {"train": 20})
    options = Options(
        weights=_weights(tmp_path / "huge.pt", 1e6),
        input_size=32,
        device="cpu",
        layer=2,
        final_norm=False,
    )
    with pytest.raises(UserError, match="are not finite in float16") as error:
        features.extract(tmp_path, "random", "test_vit", options)
    assert "\n" not in str(error.value)
    assert not _shard_files(tmp_path / "random-test_vit")
