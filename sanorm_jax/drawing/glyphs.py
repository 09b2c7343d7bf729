"""Sets of objects drawn as glyphs on their images: what was predicted, what is true.

A glyph's outline is the shape (square: cube, disc: sphere, upright: cylinder), its side
the size, its filling the colour; a white dot marks metal. A predicted glyph that finds
its object, as average precision counts it, has a white rim; a wrong one is crossed out;
an object that none found has a dotted ring.
"""

from collections.abc import Mapping

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Circle

from sanorm_jax.data import properties
from sanorm_jax.drawing import figures, painting
from sanorm_jax.metrics import average_precision

# World units: what is farther off is not the object, in these pictures.
THRESHOLD = 1.0
# From this probability on a prediction is drawn.
_CONFIDENT = 0.5
_DIM = 0.6
_MARKERS = ("s", "o", ((-0.6, -1), (0.6, -1), (0.6, 1), (-0.6, 1), (-0.6, -1)))
_SIDES = (0.055, 0.1)  # of small and large objects, in sides of the image


def fit_camera(positions: np.ndarray, pixels: np.ndarray) -> np.ndarray:
    """Return the camera that maps places in the world to pixels, least squares.

    The direct linear transform (Hartley and Zisserman, "Multiple View Geometry",
    2004, 7.1): of many images' objects it is the mean of their cameras.

    Args:
      positions: `[n, 3]`, n at least 6, not all in one plane.
      pixels: `[n, 2]`.

    Returns:
      `[3, 4]`, for `project`.
    """
    points = np.concatenate([positions, np.ones((len(positions), 1))], -1)
    # Rows of points times pixels are of one size only if pixels are of that of 1.
    scale = np.abs(pixels).max() / 2
    x, y = np.moveaxis(pixels / scale - 1, -1, 0)[..., None]
    zeros = np.zeros_like(points)
    rows = np.concatenate(
        [
            np.concatenate([points, zeros, -x * points], -1),
            np.concatenate([zeros, points, -y * points], -1),
        ]
    )
    camera = np.linalg.svd(rows, full_matrices=False)[2][-1].reshape(3, 4)
    back = np.array([[scale, 0, scale], [0, scale, scale], [0, 0, 1]])
    return back @ camera


def project(camera: np.ndarray, positions: np.ndarray) -> np.ndarray:
    """Return pixels `[..., 2]` of places `[..., 3]` by a camera `[3, 4]`."""
    points = positions @ camera[:, :3].T + camera[:, 3]
    return points[..., :2] / points[..., 2:]


def positions(vectors: np.ndarray) -> np.ndarray:
    """Return places in world units `[..., 3]` of property vectors `[..., 19]`."""
    low, high = properties.POSITION_LOW, properties.POSITION_HIGH
    return low + vectors[..., average_precision.POSITION] * (high - low)


def property_grid(
    images: np.ndarray,
    true: np.ndarray,
    pixels: np.ndarray,
    predicted: Mapping[str, np.ndarray],
    camera: np.ndarray,
) -> Figure:
    """Show scenes side by side; below each its true objects, and each prediction.

    Args:
      images: `[B, H, W, 3]`, uint8.
      true: `[B, M, 19]` property vectors, see `data.properties`.
      pixels: `[B, M, 2]`, where the true objects lie.
      predicted: `[B, K, 19]` by name.
      camera: `[3, 4]`, by which predicted places are drawn; each image's own camera
        differs from it by a shift, that of its true objects.
    """
    images = painting.as_floats(images)
    # Glyphs stand out from a dim image.
    rows = {"image": images} | dict.fromkeys(("true", *predicted), _DIM * images)
    figure, axes = figures.picture_grid(rows)
    for axis in axes.flat:
        axis.autoscale(False)
    side = images.shape[1]
    real = true[..., -1] != 0
    for b in range(len(images)):
        kinds = average_precision.kinds(true[b])
        for i in np.flatnonzero(real[b]):
            _draw(axes[1, b], pixels[b, i], {k: v[i] for k, v in kinds.items()}, side)
    for row, vectors in enumerate(predicted.values(), start=2):
        found = average_precision.finds(vectors, true, THRESHOLD, "correct")
        for b in range(len(images)):
            axis = axes[row, b]
            shift = 0.0
            if real[b].any():
                seen = project(camera, positions(true[b, real[b]]))
                shift = (pixels[b, real[b]] - seen).mean(0)
            places = project(camera, positions(vectors[b])) + shift
            kinds = average_precision.kinds(vectors[b])
            shown = np.flatnonzero(vectors[b, :, -1] >= _CONFIDENT)
            for i in shown:
                kind = {k: v[i] for k, v in kinds.items()}
                _draw(axis, places[i], kind, side, found[b, i] >= 0)
            for i in set(np.flatnonzero(real[b])) - set(found[b, shown]):
                ring = {"fill": False, "color": "white", "linestyle": (0, (1, 1))}
                axis.add_patch(Circle(pixels[b, i], side * _SIDES[1], **ring))
    return figure


def _draw(axis, place, kind: Mapping[str, int], side: int, right: bool = True):
    """Draw a glyph at a pixel; of a place outside the image, at its border."""
    place = np.clip(place, 0, side - 1)
    inches = axis.get_window_extent().width / axis.figure.dpi
    points = 72 * inches * _SIDES[kind["size"]] * 1.4
    axis.plot(
        *place,
        marker=_MARKERS[kind["shape"]],
        markersize=points,
        markerfacecolor=np.array(properties.RGB[kind["color"]]) / 255,
        markeredgecolor="white" if right else "black",
        markeredgewidth=0.8,
    )
    if properties.MATERIALS[kind["material"]] == "metal":
        axis.plot(*place, "o", ms=points / 4, mfc="white", mec="none")
    if not right:
        axis.plot(*place, "x", ms=1.2 * points, mec="black", mew=0.8)
