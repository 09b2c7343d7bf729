"""Triangle meshes with textures: reading, decimation and convex hulls."""

import numpy as np

from ..sources.base import SourceError

_NUM_HULL_DIRECTIONS = 160


def read_obj(content: bytes, name: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the triangles of a Wavefront OBJ file.

    Args:
      content: Bytes of the file.
      name: Name of the file for error messages.

    Returns:
      Positions `[V, 3]`, texture coordinates `[V, 2]` and faces `[F, 3]`. Vertices with
      the same position and texture coordinates are merged.

    Raises:
      SourceError: The file has no triangles, or vertices without texture coordinates.
    """
    positions, uv, corners = [], [], []
    for line in content.decode("utf-8", "replace").splitlines():
        kind, *values = line.split() or [""]
        if kind == "v":
            positions.append(values[:3])
        elif kind == "vt":
            uv.append(values[:2])
        elif kind == "f":
            # Split polygons into fans of triangles. Indices start at 1; negative ones
            # count from the end.
            polygon = [value.split("/") for value in values]
            for i in range(1, len(polygon) - 1):
                corners += [polygon[0], polygon[i], polygon[i + 1]]
    if not corners:
        raise SourceError(f"{name}: has no faces; every object needs a mesh")
    try:
        positions = np.array(positions, float).reshape(-1, 3)
        uv = np.array(uv, float).reshape(-1, 2)
        index = np.array([[int(a), int(b)] for a, b, *_ in corners]).reshape(-1, 2)
        from_end = index + np.array([len(positions), len(uv)])
        index = np.where(index > 0, index - 1, from_end)
        vertices = np.hstack([positions[index[:, 0]], uv[index[:, 1]]])
    except (ValueError, IndexError):
        raise SourceError(
            f"{name}: damaged, or has faces without texture coordinates; every object "
            "needs a texture"
        ) from None
    vertices, faces = np.unique(vertices, axis=0, return_inverse=True)
    return vertices[:, :3], vertices[:, 3:], faces.reshape(-1, 3)


def decimate(
    positions: np.ndarray, uv: np.ndarray, faces: np.ndarray, max_faces: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the mesh, decimated by quadric error to about `max_faces` triangles.

    Texture charts are disconnected parts of the mesh. Their borders are preserved, so
    that no seam opens.

    Args:
      positions: Vertices `[V, 3]`.
      uv: Texture coordinates `[V, 2]`.
      faces: Triangles `[F, 3]`, indices of vertices.
      max_faces: Target number of triangles.

    Returns:
      Positions, texture coordinates and faces of the decimated mesh.
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
    # A vertex takes the texture coordinates of the nearest vertex merged into it.
    distance = np.linalg.norm(positions - simple[group], axis=-1)
    farthest_first = np.argsort(-distance, kind="stable")
    nearest = np.zeros(len(simple), int)
    nearest[group[farthest_first]] = farthest_first
    return simple, uv[nearest], faces


def hull(positions: np.ndarray) -> np.ndarray:
    """Return vertices `[H, 3]` whose convex hull approximates that of all vertices.

    They are the vertices farthest in each of many directions.
    """
    # A Fibonacci sphere: evenly spaced directions.
    i = np.arange(_NUM_HULL_DIRECTIONS) + 0.5
    z = 1 - 2 * i / _NUM_HULL_DIRECTIONS
    angle = np.pi * (1 + 5**0.5) * i
    ring = np.sqrt(1 - z * z)
    directions = np.stack([ring * np.cos(angle), ring * np.sin(angle), z], -1)
    return positions[np.unique((positions @ directions.T).argmax(0))]
