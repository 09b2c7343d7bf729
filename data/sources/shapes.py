"""Synthetic scenes in the style of CLEVR, ray-cast in NumPy.

Spheres, cubes and cylinders of two sizes, eight colors and two materials stand on a
ground plane in front of a jittered camera. A key light casts shadows, and a fill light
softens them. Masks and properties are exact, and a scene is a pure function of (seed,
split, index). World, sizes, colors and lights follow Johnson et al., "CLEVR" (CVPR
2017), without their code or data.
"""

import dataclasses
import functools
import math

import numpy as np
from scipy import ndimage

from .. import properties
from . import rendered
from .base import Example, Options, Source, object_fields, pad

RADIUS = {"small": 0.35, "large": 0.7}
_LINEAR = (np.array(properties.RGB) / 255.0) ** 2.2
_CAMERA = np.array([7.2, -6.6, 5.3])
_TARGET = np.array([0.0, 0.0, 0.2])
# Half the image width over the focal length; objects cover 12-20 % of the image.
_HALF_WIDTH = 0.29
_KEY_LIGHT = np.array([6.4, -2.9, 6.0])
_FILL_LIGHT = np.array([-4.7, -4.0, 3.5])
_MARGIN = 0.15  # minimum gap between objects in world units
_MIN_AREA = 0.001  # minimum visible area of each object, as a fraction of the image
_MAX_OBJECTS = 10
_PER_SHARD = 64
SPLITS = {"train": 10_000, "validation": 1_000, "test": 1_000}


@dataclasses.dataclass
class _Scene:
    """Objects of a scene.

    Attributes:
      kinds: Shapes, sizes, materials and colors, as indices in the vocabularies of
        `properties`, `[n]` each.
      center: Centers in world units, `[n, 3]`.
      radius: Radii, or half sides of cubes, `[n]`.
      angle: Rotations about the vertical axis in degrees, `[n]`.
    """

    kinds: dict[str, np.ndarray]
    center: np.ndarray
    radius: np.ndarray
    angle: np.ndarray


def _sample_scene(rng: np.random.Generator, count: int, camera) -> _Scene:
    """Return random objects in view that do not touch; restart if one does not fit."""
    while True:
        kinds = {
            "shape": rng.integers(0, len(properties.SHAPES), count),
            "size": rng.integers(0, len(properties.SIZES), count),
            "material": rng.integers(0, len(properties.MATERIALS), count),
            "color": rng.integers(0, len(properties.COLORS), count),
        }
        radius = np.array([RADIUS[properties.SIZES[i]] for i in kinds["size"]])
        # Bound a cube by its diagonal, which holds for every rotation.
        cube = kinds["shape"] == properties.SHAPES.index("cube")
        reach = np.where(cube, math.sqrt(2) * radius, radius)
        center = np.zeros((count, 3))
        placed = 0
        for _ in range(60 * count):
            center[placed, :2] = rng.uniform(-3, 3, 2)
            center[placed, 2] = radius[placed]
            distance = np.linalg.norm(center[:placed, :2] - center[placed, :2], axis=-1)
            apart = np.all(distance > reach[:placed] + reach[placed] + _MARGIN)
            if apart and np.all(np.abs(_project(camera, center[placed])[:2]) < 1):
                placed += 1
                if placed == count:
                    break
        if placed == count:
            break
    return _Scene(kinds, center, radius, rng.uniform(0, 360, count))


def _unit(v: np.ndarray) -> np.ndarray:
    return v / np.linalg.norm(v, axis=-1, keepdims=True)


def _camera(rng: np.random.Generator):
    """Return the camera's position and its axes: right, up, forward."""
    position = _CAMERA + rng.uniform(-0.5, 0.5, 3)
    forward = _unit(_TARGET - position)
    right = _unit(np.cross(forward, [0.0, 0.0, 1.0]))
    return position, (right, np.cross(right, forward), forward)


def _project(camera, points: np.ndarray) -> np.ndarray:
    """Return the image coordinates in [-1, 1] and depth of points `[..., 3]`."""
    position, axes = camera
    right, up, depth = (np.asarray((points - position) @ axis) for axis in axes)
    scale = depth * _HALF_WIDTH
    return np.stack([right / scale, up / scale, depth], -1)


def _nearest(*distances: np.ndarray) -> np.ndarray:
    """Return the smallest positive distance; infinity where there is none."""
    ahead = [np.where(d > 1e-4, d, np.inf) for d in distances]
    return functools.reduce(np.minimum, ahead)


def _hit(scene: _Scene, i: int, origin: np.ndarray, rays: np.ndarray) -> np.ndarray:
    """Return the distance `[P]` along rays to object i; infinity for a miss.

    Args:
      scene: Objects of the scene.
      i: Index of the object.
      origin: Origins of the rays `[P, 3]`.
      rays: Directions of the rays `[P, 3]`.
    """
    r = scene.radius[i]
    o, d = origin - scene.center[i], rays
    shape = properties.SHAPES[scene.kinds["shape"][i]]
    with np.errstate(divide="ignore", invalid="ignore"):
        if shape == "sphere":
            b = np.sum(o * d, -1)
            root = np.sqrt(b * b - np.sum(o * o, -1) + r * r)
            distance = _nearest(-b - root, -b + root)
            return np.where(np.isnan(root), np.inf, distance)
        if shape == "cube":
            o, d = _turn(o, scene.angle[i]), _turn(d, scene.angle[i])
            one, two = (-r - o) / d, (r - o) / d
            near = np.minimum(one, two).max(-1)
            far = np.maximum(one, two).min(-1)
            return np.where(near < far, _nearest(near, far), np.inf)
        # Cylinder: lateral surface, clipped by the slab between the caps.
        a = d[:, 0] ** 2 + d[:, 1] ** 2
        b = o[:, 0] * d[:, 0] + o[:, 1] * d[:, 1]
        root = np.sqrt(b * b - a * (o[:, 0] ** 2 + o[:, 1] ** 2 - r * r))
        one, two = (-r - o[:, 2]) / d[:, 2], (r - o[:, 2]) / d[:, 2]
        near = np.maximum((-b - root) / a, np.minimum(one, two))
        far = np.minimum((-b + root) / a, np.maximum(one, two))
        return np.where(near < far, _nearest(near, far), np.inf)


def _may_hit(scene: _Scene, origin: np.ndarray, rays: np.ndarray) -> np.ndarray:
    """Return whether each unit ray `[P, 3]` may hit each object, bool `[n, P]`."""
    # Bounding spheres in float32 with a margin; `_hit` decides exactly.
    o, d = (np.ascontiguousarray(v.T, np.float32) for v in (origin, rays))
    c = scene.center.astype(np.float32)
    along = _outer_dot(c, d) - np.einsum("cp,cp->p", o, d)
    apart = np.sum(c * c, -1)[:, None] + np.einsum("cp,cp->p", o, o)
    off = apart - 2 * _outer_dot(c, o) - along**2
    return (off < 3.02 * scene.radius[:, None] ** 2) & (along > 0)


def _outer_dot(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    # [n, 3], [3, P] -> [n, P]. Without BLAS, whose threads compete with the workers.
    return a[:, 0, None] * b[0] + a[:, 1, None] * b[1] + a[:, 2, None] * b[2]


def _turn(v: np.ndarray, degrees: float) -> np.ndarray:
    c, s = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    x, y, z = v[..., 0], v[..., 1], v[..., 2]
    return np.stack([c * x + s * y, c * y - s * x, z], -1)


def _normal(scene: _Scene, i: int, points: np.ndarray) -> np.ndarray:
    """Return the outward normals of object i at points on its surface, `[P, 3]`."""
    o, r = points - scene.center[i], scene.radius[i]
    shape = properties.SHAPES[scene.kinds["shape"][i]]
    if shape == "sphere":
        return o / r
    if shape == "cube":
        local = _turn(o, scene.angle[i])
        side = np.argmax(np.abs(local), -1)
        normal = np.zeros_like(local)
        rows = np.arange(len(local))
        normal[rows, side] = np.sign(local[rows, side])
        return _turn(normal, -scene.angle[i])
    flat = np.abs(o[:, 2]) > r * (1 - 1e-4)
    cap = np.stack([0 * o[:, 0], 0 * o[:, 0], np.sign(o[:, 2])], -1)
    mantle = np.concatenate([o[:, :2] / r, 0 * o[:, :1]], -1)
    return np.where(flat[:, None], cap, mantle)


def _first_hits(scene: _Scene, origin: np.ndarray, rays: np.ndarray):
    """Return the first object that each ray hits and its distance, `[P]` each.

    The object is -1 for the ground and -2 for none.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        ground = _nearest(-origin[:, 2] / rays[:, 2])
    count = len(scene.radius)
    distance = np.full((count + 1, len(rays)), np.inf)
    distance[count] = ground
    for i, mask in enumerate(_may_hit(scene, origin, rays)):
        candidates = np.flatnonzero(mask)
        distance[i, candidates] = _hit(scene, i, origin[candidates], rays[candidates])
    first = distance.argmin(0)
    nearest = distance.min(0)
    which = np.where(first == count, -1, first)
    return np.where(np.isfinite(nearest), which, -2), nearest


def _lit(scene: _Scene, points: np.ndarray, normals: np.ndarray, light: np.ndarray):
    """Return the cosine to the light `[P]`, 0 in shadow, and its direction `[P, 3]`."""
    to_light = light - points
    direction = _unit(to_light)
    cosine = np.maximum(np.sum(normals * direction, -1), 0)
    light_distance = np.linalg.norm(to_light, axis=-1)
    origin = points + 1e-3 * normals
    for i, mask in enumerate(_may_hit(scene, origin, direction)):
        candidates = np.flatnonzero(mask & (cosine > 0))
        if len(candidates):
            hit = _hit(scene, i, origin[candidates], direction[candidates])
            cosine[candidates[hit < light_distance[candidates]]] = 0
    return cosine, direction


def _shade(scene, which, points, rays, lights, ground, mirrors=True) -> np.ndarray:
    """Return the linear colors of the points that the rays hit, `[P, 3]`.

    Metal reflects the scene once. In reflections it is matte (`mirrors=False`).
    """
    normals = np.tile([0.0, 0.0, 1.0], (len(points), 1))
    albedo = np.tile(ground, (len(points), 1))
    gloss = np.zeros(len(points))
    sharp = np.ones(len(points))
    metal = np.zeros(len(points), bool)
    for i in range(len(scene.radius)):
        on_object = which == i
        normals[on_object] = _normal(scene, i, points[on_object])
        albedo[on_object] = _LINEAR[scene.kinds["color"][i]]
        is_metal = properties.MATERIALS[scene.kinds["material"][i]] == "metal"
        metal[on_object] = is_metal
        gloss[on_object], sharp[on_object] = (0.9, 60.0) if is_metal else (0.08, 8.0)
    color = 0.22 * albedo
    for light, strength in zip(lights, (0.85, 0.3), strict=True):
        cosine, direction = _lit(scene, points, normals, light)
        color += strength * albedo * cosine[:, None]
        half = _unit(direction - rays)
        shine = np.maximum(np.sum(normals * half, -1), 0) ** sharp * (cosine > 0)
        color += strength * (gloss * shine)[:, None]
    if mirrors and metal.any():
        tint = 0.9 * albedo[metal] + 0.1
        image = _mirror_image(
            scene, points[metal], normals[metal], rays[metal], lights, ground
        )
        color[metal] = 0.5 * color[metal] + 0.9 * tint * image
    return color


def _mirror_image(scene, points, normals, rays, lights, ground) -> np.ndarray:
    """Return the linear colors reflected at the points, `[P, 3]`."""
    rays = rays - 2 * np.sum(rays * normals, -1, keepdims=True) * normals
    which, distance = _first_hits(scene, points + 1e-3 * normals, rays)
    color = np.broadcast_to(0.45 + 0.5 * rays[:, 2:], rays.shape).copy()
    hit = which > -2
    hit_points = points[hit] + distance[hit, None] * rays[hit]
    color[hit] = _shade(
        scene, which[hit], hit_points, rays[hit], lights, ground, mirrors=False
    )
    return color


def render(
    seed: int,
    split: str,
    index: int,
    size: int,
    min_objects: int,
    max_objects: int,
    num_rows: int | None = None,
) -> Example:
    """Render a scene in which every object is visible.

    The per-object columns have `num_rows` rows, or `max_objects` if None.

    Returns:
      The fields of `base.object_fields`: positions in world units,
      `pixel_coords` in pixels and depth, `rotation` in degrees.
    """
    rng = np.random.default_rng([seed, list(SPLITS).index(split), index])
    count = int(rng.integers(min_objects, max_objects + 1))
    camera = _camera(rng)
    position, (right, up, forward) = camera
    lights = [light + rng.uniform(-1, 1, 3) for light in (_KEY_LIGHT, _FILL_LIGHT)]
    ground = np.full(3, 0.35 + rng.uniform(-0.01, 0.01))

    def cast(screen):
        rays = forward + _HALF_WIDTH * (screen[:, :1] * right + screen[:, 1:] * up)
        rays = _unit(rays)
        origin = np.broadcast_to(position, rays.shape)
        return rays, *_first_hits(scene, origin, rays)

    def shade(rays, which, distance):
        far = np.where(which == -2, 1.0, distance)[:, None]
        color = _shade(scene, which, position + far * rays, rays, lights, ground)
        return np.where((which == -2)[:, None], ground, color)

    # Pixel centers, [P, 2], determine the labels.
    grid = (np.arange(size) + 0.5) / size * 2 - 1
    x, y = np.meshgrid(grid, -grid)
    centers = np.stack([x.ravel(), y.ravel()], -1)
    while True:
        scene = _sample_scene(rng, count, camera)
        rays, which, distance = cast(centers)
        pixels = np.bincount(which[which >= 0], minlength=count)
        if pixels.min() >= max(1, _MIN_AREA * size**2):
            break
    color = shade(rays, which, distance)
    labels = which.reshape(size, size)

    # Antialiasing: four samples per pixel at label boundaries.
    neighbors = ndimage.generate_binary_structure(2, 1)
    rows = np.flatnonzero(ndimage.morphological_gradient(labels, footprint=neighbors))
    corners = np.array([[-1, -1], [-1, 1], [1, -1], [1, 1]]) * (0.5 / size)
    samples = (centers[rows, None] + corners).reshape(-1, 2)
    color[rows] = shade(*cast(samples)).reshape(-1, 4, 3).mean(1)
    image = np.clip(color, 0, 1) ** (1 / 2.2) * 255
    image = np.rint(image).astype(np.uint8).reshape(size, size, 3)
    return _example(scene, labels, image, camera, num_rows or max_objects)


def _example(scene, labels, image, camera, num_rows) -> Example:
    """Number the objects from 1 and pad the per-object columns."""
    size, count = len(labels), len(scene.radius)
    across, above, depth = np.moveaxis(_project(camera, scene.center), -1, 0)
    pixel = np.stack([(across + 1) * size / 2, (1 - above) * size / 2, depth], -1)
    kinds = {n: pad(v, num_rows, -1, "int8") for n, v in scene.kinds.items()}
    return kinds | {
        "image": image,
        "segmentation": np.maximum(labels + 1, 0).astype(np.uint8),
        "num_objects": np.array(count, np.int32),
        "position": pad(scene.center, num_rows, 0, "float32"),
        "pixel_coords": pad(pixel, num_rows, 0, "float32"),
        "rotation": pad(scene.angle, num_rows, 0, "float32"),
        "visibility": pad(np.ones(count), num_rows, 0, "float32"),
    }


def _example_at(split: str, index: int, *, settings: dict) -> Example:
    return render(
        settings["seed"],
        split,
        index,
        settings["image_size"],
        *rendered.limits(settings, split),
        num_rows=settings["max_objects"],
    )


def build(options: Options) -> Source:
    """Return the source of rendered scenes."""
    options.reject("source")
    size = options.check_image_size(128, 16, 1024)
    settings = rendered.settings(options, SPLITS, (1, _MAX_OBJECTS), _MAX_OBJECTS)
    # Stores of renderers whose output differs must never be mixed.
    settings |= {"renderer": 3, "image_size": size}
    return Source(
        source={"generator": "data.shapes"},
        settings=settings,
        fields=object_fields(size, settings["max_objects"]),
        splits=options.splits or SPLITS,
        examples_per_shard=_PER_SHARD,
        example=functools.partial(_example_at, settings=settings),
    )
