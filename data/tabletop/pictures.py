"""Rendering of objects on a floor with Mitsuba: images and exact masks.

Mitsuba's scalar variant needs neither a GPU nor LLVM nor a display. Sunlight has no
noise. Skylight is noisy and therefore denoised: it is divided by the albedo, smoothed
within each surface, and multiplied by the albedo again, so that textures stay sharp.
"""

import dataclasses
import functools
import pathlib

import drjit
import mitsuba as mi
import numpy as np
from PIL import Image

from . import assets
from .physics import Poses

mi.set_variant("scalar_rgb")

# Half the side of the floor in world units. No camera sees beyond it.
_FLOOR = 60.0
_SAMPLES = 4  # per pixel, a square number
_MAX_DEPTH = 3  # light of the sky, reflected at most once
_SMOOTHING_RADIUS = 3  # pixels
_MIN_ALBEDO = 0.02
_OFF_PLANE = 0.1  # scale of the distance from a pixel's plane, in world units


@dataclasses.dataclass(frozen=True)
class Camera:
    """A perspective camera with square images that looks at a point.

    Attributes:
      origin: Position of the camera `[3]`.
      target: Point that it looks at `[3]`.
      fov: Field of view in degrees.
    """

    origin: np.ndarray
    target: np.ndarray
    fov: float

    @property
    def half_width(self) -> float:
        """Half the width of the image plane at distance 1."""
        return float(np.tan(np.radians(self.fov) / 2))

    def axes(self) -> np.ndarray:
        """Return the directions right, up and forward, `[3, 3]`."""
        forward = self.target - self.origin
        forward = forward / np.linalg.norm(forward)
        right = np.cross(forward, [0.0, 0.0, 1.0])
        right /= np.linalg.norm(right)
        return np.stack([right, np.cross(right, forward), forward])

    def project(self, points: np.ndarray) -> np.ndarray:
        """Return image coordinates (right and up, in [-1, 1]) and depth, `[P, 3]`."""
        right, up, depth = ((points - self.origin) @ self.axes().T).T
        scale = depth * self.half_width
        return np.stack([right / scale, up / scale, depth], -1)


@dataclasses.dataclass(frozen=True)
class Light:
    """The light of a scene.

    Attributes:
      sun: Direction of the sunlight `[3]`.
      sun_color: Irradiance `[3]` of a surface that faces the sun.
      sky_color: Radiance `[3]` of the sky, equal in all directions.
    """

    sun: np.ndarray
    sun_color: np.ndarray
    sky_color: np.ndarray


@dataclasses.dataclass(frozen=True)
class Floor:
    """The floor of a scene.

    Attributes:
      name: Name of the texture.
      tile: Side of a tile of the texture in world units.
      angle: Rotation in degrees.
      offset: Position of its center `[2]`.
    """

    name: str
    tile: float
    angle: float
    offset: np.ndarray


@dataclasses.dataclass(frozen=True)
class Scene:
    """A simulated scene.

    Attributes:
      names: Names of the objects, without repetition.
      radii: Radii of their bounding spheres `[n]`, in world units.
      poses: Poses of the objects in each frame.
      camera: Camera of the scene.
      light: Light of the scene.
      floor: Floor of the scene.
    """

    names: list[str]
    radii: np.ndarray
    poses: list[Poses]
    camera: Camera
    light: Light
    floor: Floor


class Renderer:
    """Renderer of images of one size. Loaded assets stay in memory.

    Args:
      cache: Folder of the assets.
      size: Side of the images in pixels.
    """

    def __init__(self, cache: pathlib.Path, size: int):
        self._size = size
        # Several processes render in parallel.
        drjit.set_thread_count(1)
        self.shape = functools.cache(functools.partial(assets.load_object, cache))
        self._mesh = functools.cache(self._load_mesh)
        self._floor_texture = functools.cache(
            functools.partial(assets.load_floor, cache)
        )

    def picture(
        self, scene: Scene, frame: int = 0, min_pixels: int = 0
    ) -> tuple[np.ndarray, np.ndarray] | None:
        """Render a frame of a scene.

        Args:
          scene: Scene to render.
          frame: Index of the frame.
          min_pixels: Minimum number of visible pixels of each object.

        Returns:
          The image `[S, S, 3]` and its labels `[S, S]`, both uint8; None if an object
          has fewer visible pixels.
        """
        camera, light = scene.camera, scene.light
        shapes = self._place(scene.names, scene.radii, scene.poses[frame])
        shapes["floor"] = self._floor(scene.floor)
        sun = {
            "type": "directional",
            "direction": light.sun.tolist(),
            "irradiance": {"type": "rgb", "value": light.sun_color.tolist()},
        }
        sky = {
            "type": "constant",
            "radiance": {"type": "rgb", "value": light.sky_color.tolist()},
        }
        in_sun = mi.load_dict({"type": "scene", "sun": sun} | shapes)
        labels, guides = self._first_hits(in_sun, camera)
        pixels = np.bincount(labels.ravel(), minlength=len(scene.names) + 1)
        if pixels[1:].min() < min_pixels:
            return None
        aov = {"type": "aov", "aovs": "albedo:albedo"}
        albedo = self._render(in_sun, camera, aov, samples=_SAMPLES)
        direct = {"type": "direct", "emitter_samples": 1, "bsdf_samples": 0}
        sunlit = self._render(in_sun, camera, direct, samples=_SAMPLES)
        under_sky = mi.load_dict({"type": "scene", "sky": sky} | shapes)
        path = {"type": "path", "max_depth": _MAX_DEPTH}
        skylit = self._render(under_sky, camera, path, samples=_SAMPLES, jitter=True)
        albedo = np.maximum(albedo, _MIN_ALBEDO)
        skylit = albedo * smooth(skylit / albedo, labels, guides, _SMOOTHING_RADIUS)
        return _to_srgb(sunlit + skylit), labels

    def _load_mesh(self, name: str) -> mi.Mesh:
        shape = self.shape(name)
        properties = mi.Properties()
        properties["bsdf"] = self._bsdf(shape.texture)
        mesh = mi.Mesh(
            name,
            len(shape.positions),
            len(shape.faces),
            has_vertex_texcoords=True,
            props=properties,
        )
        parameters = mi.traverse(mesh)
        parameters["faces"] = shape.faces.ravel()
        # The lowest row of a bitmap has v = 1.
        uv = shape.uv * [1, -1] + [0, 1]
        parameters["vertex_texcoords"] = uv.astype(np.float32).ravel()
        parameters["vertex_positions"] = shape.positions.ravel()
        parameters.update()
        return mesh

    def _bsdf(self, texture: np.ndarray, tiles: float = 1.0):
        # Above twice the resolution of the image, a texture only adds noise.
        size = min(max(texture.shape), 2 * self._size)
        image = Image.fromarray(texture).resize((size, size), Image.Resampling.BOX)
        bitmap = {
            "type": "bitmap",
            "bitmap": mi.Bitmap(np.array(image)),
            "format": "fp16",
            "to_uv": mi.ScalarTransform4f().scale([tiles, tiles, 1]),
        }
        diffuse = {"type": "diffuse", "reflectance": bitmap}
        return mi.load_dict({"type": "twosided", "bsdf": diffuse})

    def _floor(self, floor: Floor):
        transform = mi.ScalarTransform4f().translate([*floor.offset.tolist(), 0])
        transform = transform.rotate([0, 0, 1], floor.angle)
        tiles = 2 * _FLOOR / floor.tile
        return {
            "type": "rectangle",
            "to_world": transform.scale([_FLOOR, _FLOOR, 1]),
            "bsdf": self._bsdf(self._floor_texture(floor.name), tiles),
        }

    def _place(self, names, scales, poses: Poses) -> dict[str, mi.Mesh]:
        shapes = {}
        for i, (name, scale) in enumerate(zip(names, scales, strict=True)):
            mesh = self._mesh(name)
            points = poses.apply(i, self.shape(name).positions * scale)
            parameters = mi.traverse(mesh)
            parameters["vertex_positions"] = points.astype(np.float32).ravel()
            parameters.update()
            shapes[f"object_{i}"] = mesh
        return shapes

    def _render(
        self, scene, camera: Camera, integrator, *, samples: int = 1, jitter=False
    ) -> np.ndarray:
        """Return `[S, S, C]`. A single sample without jitter is the pixel's center."""
        film = {
            "type": "hdrfilm",
            "width": self._size,
            "height": self._size,
            "rfilter": {"type": "box"},
            "pixel_format": "rgb",
            "component_format": "float32",
        }
        sensor = {
            "type": "perspective",
            "fov": camera.fov,
            "to_world": mi.ScalarTransform4f().look_at(
                origin=camera.origin.tolist(),
                target=camera.target.tolist(),
                up=[0, 0, 1],
            ),
            "film": film,
            "sampler": {
                "type": "stratified",
                "sample_count": samples,
                "jitter": jitter,
            },
        }
        image = mi.render(
            scene, sensor=mi.load_dict(sensor), integrator=mi.load_dict(integrator)
        )
        return np.array(image)

    def _first_hits(self, scene, camera: Camera) -> tuple[np.ndarray, np.ndarray]:
        """Return labels `[S, S]` and guides `[S, S, 6]` at pixel centers.

        The guides are the normals and the positions of the visible surface.
        """
        integrator = {"type": "aov", "aovs": "n:sh_normal,p:position,i:shape_index"}
        values = self._render(scene, camera, integrator)
        # Index 0 means that no shape is hit. The only other non-object is the floor.
        label = [0] * (len(scene.shapes()) + 1)
        for i, shape in enumerate(scene.shapes()):
            name, _, number = shape.id().partition("_")
            if name == "object":
                label[i + 1] = int(number) + 1
        index = np.rint(values[..., 6]).astype(int)
        return np.array(label, np.uint8)[index], values[..., :6]


def smooth(
    values: np.ndarray, labels: np.ndarray, guides: np.ndarray, radius: int
) -> np.ndarray:
    """Return values `[S, S, 3]` averaged over neighbors on the same surface.

    Args:
      values: Image to smooth.
      labels: Labels `[S, S]`. Pixels with different labels are not mixed.
      guides: Normals and positions `[S, S, 6]`. Weights decrease with the angle between
        the normals and with the distance from the pixel's tangent plane.
      radius: Radius of the window in pixels.
    """
    size = len(labels)
    normals, positions = guides[..., :3], guides[..., 3:]
    total, weights = values.copy(), np.ones((size, size, 1), values.dtype)
    # Weights are symmetric, so half of the neighbors suffice.
    for dy in range(radius + 1):
        for dx in range(-radius if dy else 1, radius + 1):
            here = slice(0, size - dy), slice(max(-dx, 0), size - max(dx, 0))
            there = slice(dy, size), slice(max(dx, 0), size + min(dx, 0))
            cosine = np.einsum("hwc,hwc->hw", normals[here], normals[there])
            normal = normals[here] + normals[there]
            between = positions[here] - positions[there]
            off = np.einsum("hwc,hwc->hw", normal, between)
            weight = np.maximum(cosine, 0) ** 8 * np.exp(-((off / _OFF_PLANE) ** 2))
            weight = (weight * (labels[here] == labels[there]))[..., None]
            total[here] += weight * values[there]
            total[there] += weight * values[here]
            weights[here] += weight
            weights[there] += weight
    return total / weights


def _to_srgb(linear: np.ndarray) -> np.ndarray:
    """Return 8-bit sRGB of linear colors."""
    linear = np.clip(linear, 0, 1)
    bright = 1.055 * np.maximum(linear, 1e-8) ** (1 / 2.4) - 0.055
    srgb = np.where(linear <= 0.0031308, 12.92 * linear, bright)
    return np.rint(srgb * 255).astype(np.uint8)
