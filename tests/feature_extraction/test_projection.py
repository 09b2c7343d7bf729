"""Projected features: their numbers, and that a store never has two fits."""

import json
import shutil

import numpy as np
import pytest
from sklearn.decomposition import PCA

from sanorm_jax.core import files, run_data
from sanorm_jax.core.errors import UserError
from sanorm_jax.data.manifest import PROJECTION
from sanorm_jax.data.store import Store
from sanorm_jax.data.verify import verify
from sanorm_jax.feature_extraction import encoders, projection
from sanorm_jax.feature_extraction.features import extract
from sanorm_jax.feature_extraction.options import Options
from tests import stores

SPLITS = {"train": 40, "validation": 6}
OPTIONS = Options(patch_size=4, components=3, whitening=0.5, projection_images=24)
NAME = "random-patches"


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    root = tmp_path_factory.mktemp("source") / "random"
    stores.write_source(root, SPLITS)
    return root


@pytest.fixture
def data_dir(source, tmp_path):
    (tmp_path / "random").symlink_to(source)
    return tmp_path


@pytest.mark.parametrize("whitening", [0.0, 0.5, 1.0])
def test_components_are_those_of_scikit_learn(whitening):
    rng = np.random.default_rng(0)
    tokens = rng.normal(size=(50, 20, 8)) @ rng.normal(size=(8, 8)) + 3
    mean, matrix, share = projection.fit([tokens[:30], tokens[30:]], 4, whitening)
    wanted = PCA(4).fit(tokens.reshape(-1, 8))
    values = (tokens.reshape(-1, 8) - mean) @ matrix
    plain = wanted.transform(tokens.reshape(-1, 8))
    plain /= plain.std(0) ** whitening
    # Up to the sign of each and one scale for all.
    plain *= np.sign((plain * values).sum(0)) * values.std() / plain.std()
    np.testing.assert_allclose(values, plain, atol=2e-4)
    np.testing.assert_allclose(np.square(values).mean(), 1, rtol=1e-5)
    np.testing.assert_allclose(share, wanted.explained_variance_ratio_.sum(), rtol=1e-5)


def test_store_contains_projected_features(data_dir):
    root = extract(data_dir, "random", "patches", OPTIONS)
    store, images = Store.open(root), Store.open(data_dir / "random")
    encoder = encoders.create("patches", images, Options(patch_size=4))
    raw = {s: encoder(images.column(s, "image")).astype(np.float64) for s in SPLITS}
    mean, matrix, share = projection.fit([raw["train"][:24]], 3, 0.5)
    for split in SPLITS:
        found = store.column(split, "features")
        assert found.shape[1:] == (16, 3)
        wanted = (raw[split] - mean) @ matrix
        np.testing.assert_allclose(found, wanted, atol=5e-3)
    record = store.settings["projection"]
    assert record["explained_variance"] == pytest.approx(share, abs=1e-4)
    assert record["images"] == "the first 24 of train"
    assert verify(Store.open(root, allow_incomplete=True)) == []


def test_concurrent_jobs_share_one_projection(data_dir):
    """The last to write finds the first one's file there, and uses it."""
    store = Store.open(data_dir / "random")
    encoder = encoders.create("patches", store, OPTIONS)
    root = data_dir / NAME
    first = projection._fit_file(encoder, store, OPTIONS)
    other = {name: value.copy() for name, value in first.items()}
    other["matrix"] *= -1
    projection._create(root / PROJECTION, lambda file: np.savez(file, **first))
    projection._create(root / PROJECTION, lambda file: np.savez(file, **other))
    for part in range(3):
        extract(data_dir, "random", "patches", OPTIONS, part=(part, 3))
    with np.load(root / PROJECTION, allow_pickle=False) as file:
        np.testing.assert_array_equal(file["matrix"], first["matrix"])
    assert Store.open(root).manifest["complete"]


def test_repair_needs_the_very_fit(data_dir):
    root = extract(data_dir, "random", "patches", OPTIONS)
    shard = Store.open(root).shard_file("train", "features", 1)
    good = shard.read_bytes()
    shard.write_bytes(good[:-30] + b"x" * 30)
    extract(data_dir, "random", "patches", OPTIONS, repair=True)
    assert shard.read_bytes() == good
    kept = (root / PROJECTION).read_bytes()
    (root / PROJECTION).write_bytes(kept[:-1] + b"?")
    with pytest.raises(UserError, match=rf"{PROJECTION}: damaged or from another"):
        extract(data_dir, "random", "patches", OPTIONS)
    (problem,) = verify(Store.open(root, allow_incomplete=True))
    assert problem.path == root / PROJECTION and not problem.is_shard
    (root / PROJECTION).unlink()
    with pytest.raises(UserError, match=rf"{PROJECTION}: unreadable"):
        extract(data_dir, "random", "patches", OPTIONS)
    assert not (root / PROJECTION).exists()
    assert shard.read_bytes() == good


def test_other_images_are_projected_like_those_of_a_run(data_dir, tmp_path):
    root = extract(data_dir, "random", "patches", OPTIONS)
    store, workdir = Store.open(root), tmp_path / "run"
    workdir.mkdir()
    # Another version of Python writes other bytes for the same arrays.
    with np.load(root / PROJECTION, allow_pickle=False) as file:
        arrays = dict(file)
    np.savez_compressed(root / PROJECTION, **arrays)
    projected = store.settings["projection"] | {
        "sha256": files.sha256(root / PROJECTION)
    }
    settings = store.settings | {"projection": projected}
    run_data.write(workdir, 16, settings, root / PROJECTION)
    stores.write_source(tmp_path / "mine", {"test": 8})
    shutil.rmtree(root)  # The run's own copy is enough.
    like = Options(patch_size=4)
    mine = Store.open(extract(tmp_path, "mine", "patches", like, like=workdir))
    assert mine.settings["projection"] == projected
    images = Store.open(tmp_path / "mine").column("test", "image")
    noted = run_data.read(workdir)["features"]
    encoder = encoders.create("patches", Store.open(tmp_path / "mine"), like, noted)
    with np.load(workdir / PROJECTION, allow_pickle=False) as file:
        wanted = (encoder(images).astype(np.float64) - file["mean"]) @ file["matrix"]
    np.testing.assert_allclose(mine.column("test", "features"), wanted, atol=5e-3)
    (workdir / PROJECTION).unlink()
    stores.write_source(tmp_path / "more", {"test": 8})
    with pytest.raises(UserError, match=rf"run/{PROJECTION}: unreadable"):
        extract(tmp_path, "more", "patches", like, like=workdir)
    assert not (tmp_path / "more-patches").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"components": 7}, "--components=7: .* choose 1 to 6 for patches"),
        ({"whitening": 1.5}, "--whitening=1.5: out of range"),
        ({"components": None, "whitening": 1.0}, "--whitening=1.0: needs --components"),
    ],
)
def test_bad_options_are_rejected_before_writing(data_dir, changes, message):
    options = {"patch_size": 4, "components": 3} | changes
    with pytest.raises(UserError, match=message) as caught:
        extract(data_dir, "random", "patches", Options(**options))
    assert "\n" not in str(caught.value)
    assert not (data_dir / NAME).exists()


def test_store_does_not_mix_projected_and_full_features(data_dir):
    plain = Options(patch_size=4)
    root = extract(data_dir, "random", "patches", plain)
    with pytest.raises(UserError, match="has no projection"):
        extract(data_dir, "random", "patches", OPTIONS)
    assert not (root / PROJECTION).exists()
    shutil.rmtree(root)
    extract(data_dir, "random", "patches", OPTIONS)
    before = (root / "manifest.json").read_bytes(), (root / PROJECTION).read_bytes()
    with pytest.raises(UserError, match="written with other settings"):
        extract(data_dir, "random", "patches", plain)
    for changes in ({"components": 2}, {"whitening": 1.0}, {"projection_images": 9}):
        options = Options(**vars(OPTIONS) | changes)
        with pytest.raises(UserError, match="fitted with other settings") as caught:
            extract(data_dir, "random", "patches", options)
        assert str(next(iter(changes.values()))) in str(caught.value)
    assert before == (
        (root / "manifest.json").read_bytes(),
        (root / PROJECTION).read_bytes(),
    )


def test_existing_projection_is_used_or_rejected(data_dir):
    root = extract(data_dir, "random", "patches", OPTIONS)
    fitted = (root / PROJECTION).read_bytes()
    for name in ("manifest.json", "zarr.json"):
        (root / name).unlink()
    shutil.rmtree(root / "train")
    shutil.rmtree(root / "validation")
    with pytest.raises(UserError, match="components: 3 recorded, 2 now"):
        extract(data_dir, "random", "patches", Options(patch_size=4, components=2))
    extract(data_dir, "random", "patches", OPTIONS)
    assert (root / PROJECTION).read_bytes() == fitted
    record = json.loads((root / "manifest.json").read_text())["settings"]["projection"]
    assert record["components"] == 3


def test_run_requires_its_own_projection(data_dir, tmp_path):
    store = Store.open(extract(data_dir, "random", "patches", OPTIONS))
    workdir = tmp_path / "run"
    workdir.mkdir()
    run_data.check_projection(workdir, store.settings)
    run_data.write(workdir, 16, store.settings, store.root / PROJECTION)
    run_data.check_projection(workdir, store.settings)
    other = {"projection": store.settings["projection"] | {"sha256": "0"}}
    for settings in (other, {}, None):
        with pytest.raises(UserError, match="features with another projection"):
            run_data.check_projection(workdir, settings)


def test_rank_deficient_features_are_rejected():
    flat = np.outer(np.arange(9.0), [1, 2, 3])[None]
    with pytest.raises(UserError, match="--components=2: the features have rank 1"):
        projection.fit([flat], 2, 0.5)
