"""Drops convex hulls on a table, in MuJoCo."""

import dataclasses
from collections.abc import Sequence

import mujoco
import numpy as np

_TIMESTEP = 0.005
# Seconds after which objects that still move are taken as they are.
_MAX_SECONDS = 3.0
# Objects slower than this lie; meters and radians per second.
_RESTING_SPEED = 0.05
_DENSITY = 300.0
# Of sliding, spinning and rolling; the last keeps cans from rolling away.
_FRICTION = (0.8, 0.02, 0.02)
_SPHERES_GAP = 0.02


@dataclasses.dataclass(frozen=True)
class Poses:
    """Where objects are.

    Attributes:
      rotation: Matrices `[n, 3, 3]` that turn an object's own axes.
      position: Their origins `[n, 3]`.
    """

    rotation: np.ndarray
    position: np.ndarray

    def apply(self, i: int, points: np.ndarray) -> np.ndarray:
        """Return points `[P, 3]` of object i in the world."""
        return points @ self.rotation[i].T + self.position[i]


class Drop:
    """Objects that fall on the plane z = 0.

    Args:
      hulls: Vertices `[H, 3]` of each object's convex hull, in world units.
      rng: Draws where and how they fall.
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
        # Thrown towards the middle, so that they meet.
        speed = rng.uniform(0.2, 0.8, len(hulls))
        for i, start in enumerate(starts):
            self._data.qvel[6 * i : 6 * i + 2] = -speed[i] * start[:2]
        mujoco.mj_forward(self._model, self._data)

    def advance(self, seconds: float) -> Poses:
        """Let them fall for so long; return where they are."""
        for _ in range(round(seconds / _TIMESTEP)):
            mujoco.mj_step(self._model, self._data)
        return self.poses()

    def settle(self) -> Poses:
        """Let them fall until they lie, or for three seconds; return where they are."""
        while self._data.time < _MAX_SECONDS:
            poses = self.advance(0.1)
            if np.abs(self._data.qvel).max() < _RESTING_SPEED:
                break
        return poses

    def poses(self) -> Poses:
        """Return where the objects are."""
        rotations, positions = [], []
        for i in range(self._model.nmesh):
            geom = self._model.geom(f"geom_{i}").id
            # The compiler moved and turned the mesh into its axes of inertia.
            turned = np.zeros(9)
            mujoco.mju_quat2Mat(turned, self._model.mesh_quat[i])
            rotation = self._data.geom_xmat[geom].reshape(3, 3) @ turned.reshape(3, 3).T
            rotations.append(rotation)
            moved = rotation @ self._model.mesh_pos[i]
            positions.append(self._data.geom_xpos[geom] - moved)
        return Poses(np.stack(rotations), np.stack(positions))


def _starts(radii: Sequence[float], rng: np.random.Generator) -> list[np.ndarray]:
    """Return where spheres begin: over a disc, as low as the others leave room."""
    disc = 0.62 * len(radii) ** 0.5
    starts = []
    for i, radius in enumerate(radii):
        distance, angle = disc * rng.uniform() ** 0.5, rng.uniform(0, 2 * np.pi)
        place = np.array([distance * np.cos(angle), distance * np.sin(angle), 0.0])
        place[2] = radius + _SPHERES_GAP
        # Rising through the others' spheres from the lowest on, it ends above them.
        others = sorted(zip(starts, radii[:i], strict=True), key=lambda s: s[0][2])
        for _ in others:
            for other, other_radius in others:
                reach = radius + other_radius + _SPHERES_GAP
                aside = np.linalg.norm(place[:2] - other[:2])
                if aside < reach and np.linalg.norm(place - other) < reach - 1e-9:
                    place[2] = other[2] + (reach**2 - aside**2) ** 0.5
        starts.append(place)
    return starts
