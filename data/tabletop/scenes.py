"""Random tabletop scenes, each determined by seed, split and index."""

import dataclasses
import functools
import pathlib

import numpy as np

from ..sources.base import Example, pad
from . import catalogue
from .physics import Drop
from .pictures import Camera, Floor, Light, Renderer, Scene

# Frame rate of MOVi.
FRAMES_PER_SECOND = 12
# Minimum and maximum radius of an object in world units.
_RADII = 0.35, 0.7
# Fraction of the image, from its center, that contains the hulls of all objects.
_WITHIN = 0.95
# Distances of the camera. If it would have to be farther away, an object has rolled
# off, and the scene is discarded.
_MAX_DISTANCE = 7.5
_MIN_DISTANCE = 3.0
_MIN_AREA = 0.002  # minimum visible area of each object, as a fraction of the image


def render(
    cache: pathlib.Path,
    seed: int,
    split: str,
    index: int,
    *,
    size: int,
    limits: tuple[int, int],
    num_rows: int,
    num_frames: int | None = None,
) -> Example:
    """Render an example.

    Args:
      cache: Folder of the assets.
      seed: Seed of the dataset.
      split: Name of the split.
      index: Index of the example in its split.
      size: Side of the image in pixels.
      limits: Minimum and maximum number of objects.
      num_rows: Rows of the per-object columns.
      num_frames: Frames of a video of falling objects, of which each is an example.
        None for still images of resting objects, all of them visible.

    Returns:
      The fields of `sources.base.class_fields`. Still images also have `position` and
      `radius` of the objects in world units, and `pixel_coords` in pixels and depth.
      Frames also have `video` and `frame`.
    """
    renderer = _renderer(cache, size)
    if num_frames:
        video, frame = divmod(index, num_frames)
        scene = _video(renderer, seed, split, video, limits, num_frames)
        image, labels = renderer.picture(scene, frame)
        extra = {"video": np.array(video, np.int32), "frame": np.array(frame, np.int32)}
    else:
        rng, count = _begin(seed, split, index, limits)
        min_pixels = max(1, round(_MIN_AREA * size**2))
        picture = None
        while picture is None:
            scene = _sample(rng, renderer, split, count)
            picture = renderer.picture(scene, min_pixels=min_pixels)
        image, labels = picture
        extra = _position_columns(scene, size, num_rows)
    category = [catalogue.CATEGORIES.index(name) for name in scene.names]
    return {
        "image": image,
        "segmentation": labels,
        "num_objects": np.array(len(category), np.int32),
        "category": pad(np.array(category), num_rows, -1, "int32"),
        "visibility": pad(np.ones(len(category)), num_rows, 0, "float32"),
    } | extra


def _begin(seed, split, index, limits) -> tuple[np.random.Generator, int]:
    rng = np.random.default_rng([seed, list(catalogue.COLLECTIONS).index(split), index])
    return rng, int(rng.integers(limits[0], limits[1] + 1))


def _position_columns(scene: Scene, size: int, num_rows: int) -> Example:
    position = scene.poses[0].position
    across, above, depth = scene.camera.project(position).T
    pixel = np.stack([(across + 1) * size / 2, (1 - above) * size / 2, depth], -1)
    return {
        "position": pad(position, num_rows, 0, "float32"),
        "pixel_coords": pad(pixel, num_rows, 0, "float32"),
        "radius": pad(scene.radii, num_rows, 0, "float32"),
    }


# A worker renders the frames of a video in order, so it keeps one video.
@functools.lru_cache(maxsize=1)
def _video(renderer, seed, split, video, limits, num_frames) -> Scene:
    rng, count = _begin(seed, split, video, limits)
    return _sample(rng, renderer, split, count, num_frames)


# One renderer per process, because it holds meshes and textures.
@functools.lru_cache(maxsize=1)
def _renderer(cache: pathlib.Path, size: int) -> Renderer:
    return Renderer(cache, size)


def _sample(
    rng: np.random.Generator,
    renderer: Renderer,
    split: str,
    count: int,
    num_frames: int | None = None,
) -> Scene:
    objects, floors = catalogue.COLLECTIONS[split]
    while True:
        names = [objects[i] for i in rng.choice(len(objects), count, replace=False)]
        radii = rng.uniform(*_RADII, count)
        hulls = [
            renderer.shape(name).hull * radius
            for name, radius in zip(names, radii, strict=True)
        ]
        drop = Drop(hulls, rng)
        if num_frames is None:
            poses = [drop.settle()]
        else:
            poses = [drop.poses()]
            for _ in range(num_frames - 1):
                poses.append(drop.advance(1 / FRAMES_PER_SECOND))
        points = np.concatenate(
            [pose.apply(i, hull) for pose in poses for i, hull in enumerate(hulls)]
        )
        camera = _camera(rng, points)
        if camera:
            break
    floor = Floor(
        name=floors[rng.integers(len(floors))],
        tile=rng.uniform(2.5, 6.0),
        angle=rng.uniform(0, 360),
        offset=rng.uniform(-3, 3, 2),
    )
    return Scene(names, radii, poses, camera, _light(rng), floor)


def _camera(rng: np.random.Generator, points: np.ndarray) -> Camera | None:
    """Return a random camera that sees all points; None if it would be too far away."""
    away = _direction(rng, 28, 58)
    target = (points.min(0) + points.max(0)) / 2
    camera = Camera(target + away, target, fov=rng.uniform(38, 44))
    right, up, _ = camera.axes()
    relative = points - target
    aside = np.maximum(np.abs(relative @ right), np.abs(relative @ up))
    needed = (aside / (_WITHIN * camera.half_width) + relative @ away).max()
    if needed > _MAX_DISTANCE:
        return None
    distance = max(_MIN_DISTANCE, needed) * rng.uniform(1.0, 1.2)
    return dataclasses.replace(camera, origin=target + distance * away)


def _direction(rng: np.random.Generator, low: float, high: float) -> np.ndarray:
    """Return a random direction `[3]` whose elevation is between two angles."""
    azimuth = rng.uniform(0, 2 * np.pi)
    elevation = np.radians(rng.uniform(low, high))
    return np.array(
        [
            np.cos(elevation) * np.cos(azimuth),
            np.cos(elevation) * np.sin(azimuth),
            np.sin(elevation),
        ]
    )


def _light(rng: np.random.Generator) -> Light:
    sun = -_direction(rng, 35, 70)
    warmth = rng.uniform(0, 0.12)
    return Light(
        sun=sun,
        sun_color=rng.uniform(1.4, 2.2) * np.array([1 + warmth, 1.0, 1 - warmth]),
        sky_color=rng.uniform(0.28, 0.42) * np.array([1 - warmth, 1.0, 1 + warmth]),
    )
