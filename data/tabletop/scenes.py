"""Draws what a scene is made of: a function of seed, split and index alone."""

import dataclasses
import functools
import pathlib

import numpy as np

from ..sources.base import Example
from ..sources.records import pad
from . import catalogue
from .physics import Drop, Poses
from .pictures import Camera, Floor, Light, Renderer

# As MOVi's videos.
FRAMES_PER_SECOND = 12
_RADII = 0.35, 0.7
# The hulls of all objects lie within so much of half the picture.
_WITHIN = 0.95
# Where the camera would have to be farther away, an object has rolled off.
_MAX_DISTANCE = 7.5
_MIN_DISTANCE = 3.0
_MIN_AREA = 0.002  # of the picture that each object shows


@dataclasses.dataclass(frozen=True)
class Scene:
    """A scene.

    Attributes:
      names: Names of its objects.
      radii: Radii of their bounding spheres `[n]`, in world units.
      poses: Where they are in each frame.
      camera: The camera.
      light: The light.
      floor: The floor.
    """

    names: list[str]
    radii: np.ndarray
    poses: list[Poses]
    camera: Camera
    light: Light
    floor: Floor


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
      index: Number of the example in its split.
      size: Side of the image in pixels.
      limits: Minimum and maximum number of objects.
      num_rows: M of the per-object columns.
      num_frames: Frames of a video of falling objects, whose frames are the examples;
        None for images of objects that lie, of which each can be seen.

    Returns:
      the fields of `sources.base.class_fields`; of an image also the objects'
      `position` and `radius` in world units, and `pixel_coords`, in pixels and
      distance; of a frame also `video` and `frame`.
    """
    renderer = _renderer(cache, size)
    if num_frames:
        video, frame = divmod(index, num_frames)
        scene = _video(renderer, seed, split, video, limits, num_frames)
        image, labels = _picture(renderer, scene, frame)
        more = {"video": np.array(video, np.int32), "frame": np.array(frame, np.int32)}
    else:
        rng, count = _begin(seed, split, index, limits)
        pixels = max(1, round(_MIN_AREA * size**2))
        picture = None
        while picture is None:
            scene = _draw(rng, renderer, split, count)
            picture = _picture(renderer, scene, min_pixels=pixels)
        image, labels = picture
        more = _places(scene, size, num_rows)
    category = [catalogue.CATEGORIES.index(name) for name in scene.names]
    return {
        "image": image,
        "segmentation": labels,
        "num_objects": np.array(len(category), np.int32),
        "category": pad(np.array(category), num_rows, -1, "int32"),
        "visibility": pad(np.ones(len(category)), num_rows, 0, "float32"),
    } | more


def _begin(seed, split, index, limits) -> tuple[np.random.Generator, int]:
    rng = np.random.default_rng([seed, list(catalogue.COLLECTIONS).index(split), index])
    return rng, int(rng.integers(limits[0], limits[1] + 1))


def _picture(renderer: Renderer, scene: Scene, frame: int = 0, min_pixels: int = 0):
    return renderer.picture(
        scene.names,
        scene.radii,
        scene.poses[frame],
        scene.camera,
        scene.light,
        scene.floor,
        min_pixels,
    )


def _places(scene: Scene, size: int, num_rows: int) -> Example:
    position = scene.poses[0].position
    across, above, depth = scene.camera.project(position).T
    pixel = np.stack([(across + 1) * size / 2, (1 - above) * size / 2, depth], -1)
    return {
        "position": pad(position, num_rows, 0, "float32"),
        "pixel_coords": pad(pixel, num_rows, 0, "float32"),
        "radius": pad(scene.radii, num_rows, 0, "float32"),
    }


# Frames are rendered one after another; a worker keeps the video that they are of.
@functools.lru_cache(maxsize=1)
def _video(renderer, seed, split, video, limits, num_frames) -> Scene:
    rng, count = _begin(seed, split, video, limits)
    return _draw(rng, renderer, split, count, num_frames)


# One renderer a process: it holds meshes and textures.
@functools.lru_cache(maxsize=1)
def _renderer(cache: pathlib.Path, size: int) -> Renderer:
    return Renderer(cache, size)


def _draw(
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
    """Return a camera on a hemisphere that sees all points; None if too far away."""
    azimuth = rng.uniform(0, 2 * np.pi)
    elevation = np.radians(rng.uniform(28, 58))
    away = np.array(
        [
            np.cos(elevation) * np.cos(azimuth),
            np.cos(elevation) * np.sin(azimuth),
            np.sin(elevation),
        ]
    )
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


def _light(rng: np.random.Generator) -> Light:
    azimuth = rng.uniform(0, 2 * np.pi)
    elevation = np.radians(rng.uniform(35, 70))
    sun = -np.array(
        [
            np.cos(elevation) * np.cos(azimuth),
            np.cos(elevation) * np.sin(azimuth),
            np.sin(elevation),
        ]
    )
    warmth = rng.uniform(0, 0.12)
    return Light(
        sun=sun,
        sun_color=rng.uniform(1.4, 2.2) * np.array([1 + warmth, 1.0, 1 - warmth]),
        sky_color=rng.uniform(0.28, 0.42) * np.array([1 - warmth, 1.0, 1 + warmth]),
    )
