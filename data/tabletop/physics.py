"""Simulation of objects that fall on a table, as convex hulls in MuJoCo."""

import dataclasses
from collections.abc import Sequence

import mujoco
import numpy as np

_TIMESTEP = 0.005
# Maximum simulated time in seconds, even if objects still move.
_MAX_SECONDS = 3.0
# Maximum speed of objects at rest, in world units and radians per second.
_RESTING_SPEED = 0.05
_DENSITY = 300.0
# Sliding, spinning and rolling friction; the last keeps cans from rolling away.
_FRICTION = (0.8, 0.02, 0.02)
# Gap between the bounding spheres of objects at the start, in world units.
_SPHERES_GAP = 0.02


@dataclasses.dataclass(frozen=True)
class Poses:
    """Poses of objects in the world.

    Attributes:
      rotation: Rotation matrices `[n, 3, 3]`, from object to world.
      position: Origins of the objects `[n, 3]` in the world.
    """

    rotation: np.ndarray
    position: np.ndarray

    def apply(self, i: int, points: np.ndarray) -> np.ndarray:
        """Return the world coordinates of points `[P, 3]` of object i."""
        return points @ self.rotation[i].T + self.position[i]


class Drop:
    """Simulation of objects that fall on the plane z = 0.

    Args:
      hulls: Vertices `[H, 3]` of each object's convex hull, in world units.
      rng: Generator of the initial poses and speeds.
    """

    def __init__(self, hulls: Sequence[np.ndarray], rng: np.random.Generator):
        spec = mujoco.MjSpec()
        spec.option.timestep = _TIMESTEP
        spec.worldbody.add_geom(
            type=mujoco.mjtGeom.mjGEOM_PLANE,
            size=[10, 10, 0.1],
            friction=_FRICTION,
            condim=6,
        )
        radii = [np.linalg.norm(hull, axis=-1).max() for hull in hulls]
        starts = _starts(radii, rng)
        for i, (hull, start) in enumerate(zip(hulls, starts, strict=True)):
            mesh = spec.add_mesh(name=f"mesh_{i}")
            mesh.uservert = hull.astype(np.float32).ravel()
            quaternion = rng.normal(size=4)
            body = spec.worldbody.add_body(
                pos=start, quat=quaternion / np.linalg.norm(quaternion)
            )
            body.add_freejoint()
            body.add_geom(
                name=f"geom_{i}",
                type=mujoco.mjtGeom.mjGEOM_MESH,
                meshname=f"mesh_{i}",
                density=_DENSITY,
                friction=_FRICTION,
            )
        self._model = spec.compile()
        self._data = mujoco.MjData(self._model)
        # Throw objects toward the center, so that they collide.
        speed = rng.uniform(0.2, 0.8, len(hulls))
        for i, start in enumerate(starts):
            self._data.qvel[6 * i : 6 * i + 2] = -speed[i] * start[:2]
        mujoco.mj_forward(self._model, self._data)

    def advance(self, seconds: float) -> Poses:
        """Simulate for some seconds and return the poses."""
        for _ in range(round(seconds / _TIMESTEP)):
            mujoco.mj_step(self._model, self._data)
        return self.poses()

    def settle(self) -> Poses:
        """Simulate until all objects rest, at most three seconds; return the poses."""
        while self._data.time < _MAX_SECONDS:
            poses = self.advance(0.1)
            if np.abs(self._data.qvel).max() < _RESTING_SPEED:
                break
        return poses

    def poses(self) -> Poses:
        """Return the current poses."""
        rotations, positions = [], []
        for i in range(self._model.nmesh):
            geom = self._model.geom(f"geom_{i}").id
            # MuJoCo's compiler aligns each mesh with its axes of inertia. Undo that.
            aligned = np.zeros(9)
            mujoco.mju_quat2Mat(aligned, self._model.mesh_quat[i])
            geom_rotation = self._data.geom_xmat[geom].reshape(3, 3)
            rotation = geom_rotation @ aligned.reshape(3, 3).T
            rotations.append(rotation)
            offset = rotation @ self._model.mesh_pos[i]
            positions.append(self._data.geom_xpos[geom] - offset)
        return Poses(np.stack(rotations), np.stack(positions))


def _starts(radii: Sequence[float], rng: np.random.Generator) -> list[np.ndarray]:
    """Return initial centers of bounding spheres, as low as possible without overlap.

    Horizontally, they are uniform over a disc.
    """
    disc_radius = 0.62 * len(radii) ** 0.5
    starts = []
    for i, radius in enumerate(radii):
        distance, angle = disc_radius * rng.uniform() ** 0.5, rng.uniform(0, 2 * np.pi)
        center = np.array([distance * np.cos(angle), distance * np.sin(angle), 0.0])
        center[2] = radius + _SPHERES_GAP
        # Raise the sphere above each sphere that it overlaps, from the lowest up.
        others = sorted(zip(starts, radii[:i], strict=True), key=lambda s: s[0][2])
        for _ in others:
            for other, other_radius in others:
                reach = radius + other_radius + _SPHERES_GAP
                aside = np.linalg.norm(center[:2] - other[:2])
                if aside < reach and np.linalg.norm(center - other) < reach - 1e-9:
                    center[2] = other[2] + (reach**2 - aside**2) ** 0.5
        starts.append(center)
    return starts
