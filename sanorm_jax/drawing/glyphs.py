"""True and predicted sets of objects, drawn as glyphs on their images.

A glyph shows shape (square: cube, disc: sphere, upright: cylinder), size and color. A
white dot marks metal. A prediction that matches an object, as in average precision, has
a white rim. Other predictions are crossed out. An object without a match has a dotted
ring.
"""

from collections.abc import Mapping

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Circle

from sanorm_jax.data import properties
from sanorm_jax.drawing import figures, painting
from sanorm_jax.metrics import average_precision

# Maximum distance of a match, in world units.
THRESHOLD = 1.0
# Minimum probability of predictions that are drawn.
_CONFIDENT = 0.5
_DIM = 0.6
_MARKERS = ("s", "o", ((-0.6, -1), (0.6, -1), (0.6, 1), (-0.6, 1), (-0.6, -1)))
_SIDES = (0.055, 0.1)  # small and large objects, as a fraction of the image


def fit_camera(positions: np.ndarray, pixels: np.ndarray) -> np.ndarray:
    """Return the camera `[3, 4]` that maps positions to pixels, by least squares.

    This is the direct linear transform (Hartley and Zisserman, "Multiple View
    Geometry", 2004, 7.1). A fit to the objects of many images averages their cameras.

    Args:
      positions: World positions `[n, 3]`, at least 6 and not in one plane.
      pixels: Their pixels `[n, 2]`.
    """
    points = np.concatenate([positions, np.ones((len(positions), 1))], -1)
    # Pixels are scaled to about [-1, 1], so that all rows have a similar scale.
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
    """Return the pixels `[..., 2]` of positions `[..., 3]` by a camera `[3, 4]`."""
    points = positions @ camera[:, :3].T + camera[:, 3]
    return points[..., :2] / points[..., 2:]


def positions(vectors: np.ndarray) -> np.ndarray:
    """Return the world positions `[..., 3]` of property vectors `[..., 19]`."""
    low, high = properties.POSITION_LOW, properties.POSITION_HIGH
    return low + vectors[..., average_precision.POSITION] * (high - low)


def property_grid(
    images: np.ndarray,
    true: np.ndarray,
    pixels: np.ndarray,
    predicted: Mapping[str, np.ndarray],
    camera: np.ndarray,
) -> Figure:
    """Show scenes side by side, with true and predicted objects below each.

    Args:
      images: Images `[B, H, W, 3]`, uint8.
      true: Property vectors `[B, M, 19]`, see `data.properties`.
      pixels: Pixels `[B, M, 2]` of the true objects.
      predicted: Property vectors `[B, K, 19]` by name of the model.
      camera: Camera `[3, 4]` that projects predictions. In each image it is shifted to
        fit the true objects.
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
        for i in np.flatnonzero(real[b]):
            _draw(axes[1, b], pixels[b, i], true[b, i], side)
    for row, vectors in enumerate(predicted.values(), start=2):
        found = average_precision.finds(vectors, true, THRESHOLD, "correct")
        for b in range(len(images)):
            axis = axes[row, b]
            shift = 0.0
            if real[b].any():
                seen = project(camera, positions(true[b, real[b]]))
                shift = (pixels[b, real[b]] - seen).mean(0)
            projected = project(camera, positions(vectors[b])) + shift
            shown = np.flatnonzero(vectors[b, :, -1] >= _CONFIDENT)
            for i in shown:
                _draw(axis, projected[i], vectors[b, i], side, found[b, i] >= 0)
            for i in set(np.flatnonzero(real[b])) - set(found[b, shown]):
                ring = {"fill": False, "color": "white", "linestyle": (0, (1, 1))}
                axis.add_patch(Circle(pixels[b, i], side * _SIDES[1], **ring))
    return figure


def _draw(axis, pixel, vector: np.ndarray, side: int, right: bool = True):
    """Draw a property vector at a pixel, which is clipped to the image."""
    attributes = average_precision.attributes(vector)
    pixel = np.clip(pixel, 0, side - 1)
    inches = axis.get_window_extent().width / axis.figure.dpi
    points = 72 * inches * _SIDES[attributes["size"]] * 1.4
    axis.plot(
        *pixel,
        marker=_MARKERS[attributes["shape"]],
        markersize=points,
        markerfacecolor=np.array(properties.RGB[attributes["color"]]) / 255,
        markeredgecolor="white" if right else "black",
        markeredgewidth=0.8,
    )
    if properties.MATERIALS[attributes["material"]] == "metal":
        axis.plot(*pixel, "o", ms=points / 4, mfc="white", mec="none")
    if not right:
        axis.plot(*pixel, "x", ms=1.2 * points, mec="black", mew=0.8)
