"""Average precision of predicted object properties, over a whole split at once."""

import numpy as np

from sanorm_jax.core.errors import check_name

THRESHOLDS = (np.inf, 1.0, 0.5, 0.25, 0.125)

# World units that the range [0, 1] of each position axis stands for. The published
# code takes 6 for all three, though z spans only 0.35.
Z_RANGES = {"reference": (6.0, 6.0, 6.0), "correct": (6.0, 6.0, 0.35)}

# Where each one-hot property lies in the 19 numbers: shape, size, material, colour.
_ONE_HOT = (slice(0, 3), slice(3, 5), slice(5, 7), slice(7, 15))
POSITION = slice(15, 18)
_NUM_PROPERTIES = 19

_IMAGES_AT_ONCE = 4096


def average_precision(
    predictions: np.ndarray,
    targets: np.ndarray,
    thresholds: tuple[float, ...] = THRESHOLDS,
    z_range: str = "reference",
) -> np.ndarray:
    """Average precision at distance thresholds, of all predictions of a split.

    Locatello et al., "Object-Centric Learning with Slot Attention" (2020), 4.2.
    A prediction stands for the nearest true object of its image with the same
    shape, size, material and colour (arg max). In the order of confidence, it is
    right if that object is nearer than the threshold and was not yet found; equal
    confidences keep the order of images and slots. The area under the precision
    envelope over recall is the result.

    Args:
      predictions: `[S, K, 19]`; the last number is the confidence.
      targets: `[S, M, 19]`; the last number is 1 for an object, 0 for padding.
      thresholds: T distances in world units; infinity for no limit.
      z_range: `reference` scales z by 6 like x and y, as the published code does;
        `correct` by the 0.35 that it was normalised with.

    Returns:
      float64 `[T]`; NaN where there is no true object at all.

    Raises:
      UserError: for an unknown `z_range`.
      ValueError: for shapes that do not go together.
    """
    check_name("z_range", z_range, Z_RANGES)
    S, _, P = predictions.shape
    if targets.shape[0] != S or P != _NUM_PROPERTIES or targets.shape[2] != P:
        raise ValueError(
            f"predictions {predictions.shape} and targets {targets.shape} do not "
            f"agree in images and {_NUM_PROPERTIES} properties"
        )
    M = targets.shape[1]
    real = targets[..., -1] != 0
    if not real.any():
        return np.full(len(thresholds), np.nan)
    # [S * K]
    order = np.argsort(-predictions[..., -1].reshape(-1), kind="stable")
    nearest, distance = _nearest(predictions, targets, real, Z_RANGES[z_range])
    nearest = (nearest + np.arange(S)[:, None] * M).reshape(-1)[order]
    distance = distance.reshape(-1)[order]
    return np.array(
        [_area(nearest, distance < limit, real.sum(), S * M) for limit in thresholds]
    )


def kinds(properties: np.ndarray) -> dict[str, np.ndarray]:
    """Return the most likely index of `shape`, `size`, `material`, `color`, `[...]`.

    Args:
      properties: `[..., 19]`.
    """
    names = ("shape", "size", "material", "color")
    return {
        name: properties[..., part].argmax(-1)
        for name, part in zip(names, _ONE_HOT, strict=True)
    }


def finds(
    predictions: np.ndarray, targets: np.ndarray, threshold: float, z_range: str
) -> np.ndarray:
    """Tells which predictions find an object, by the rule of `average_precision`.

    Args:
      predictions: `[S, K, 19]`.
      targets: `[S, M, 19]`.
      threshold: distance in world units.
      z_range: See `average_precision`.

    Returns:
      Index of the object of the image that each finds, -1 for none, `[S, K]`.
    """
    real = targets[..., -1] != 0
    nearest, distance = _nearest(predictions, targets, real, Z_RANGES[z_range])
    found = np.where(distance < threshold, nearest, -1)
    order = np.argsort(-predictions[..., -1], axis=-1, kind="stable")
    for image, row in zip(found, order, strict=True):
        # The first in the order of confidence keeps the object, the others lose it.
        _, first = np.unique(image[row], return_index=True)
        later = np.setdiff1d(np.arange(len(row)), first)
        image[row[later]] = -1
    return found


def _nearest(predictions, targets, real, scale):
    """Index and distance, both `[S, K]`, of the nearest object that looks the same."""
    S, K, _ = predictions.shape
    nearest = np.zeros((S, K), np.int64)
    distance = np.full((S, K), np.inf)
    if targets.shape[1] == 0:
        return nearest, distance
    predicted_kind, true_kind = _kind(predictions), _kind(targets)
    for start in range(0, S, _IMAGES_AT_ONCE):
        part = slice(start, start + _IMAGES_AT_ONCE)
        p = predictions[part, :, None, POSITION].astype(np.float64)
        t = targets[part, None, :, POSITION].astype(np.float64)
        # [s, K, M], axis by axis: quicker than a norm over a last axis of three
        squared = sum(((t[..., i] - p[..., i]) * scale[i]) ** 2 for i in range(3))
        same = predicted_kind[part, :, None] == true_kind[part, None, :]
        same &= real[part, None, :] & ~np.isnan(squared)
        squared = np.where(same, squared, np.inf)
        best = squared.argmin(-1)
        nearest[part] = best
        best = np.take_along_axis(squared, best[..., None], -1)[..., 0]
        distance[part] = np.sqrt(best)
    return nearest, distance


def _kind(properties):
    """One integer for the four arg-max properties, `[S, K]`."""
    kind = 0
    for part, index in zip(_ONE_HOT, kinds(properties).values(), strict=True):
        kind = kind * (part.stop - part.start) + index
    return kind


def _area(nearest, near, num_objects, num_targets):
    """Area under the precision envelope; arrays in the order of confidence."""
    hits = np.flatnonzero(near)
    first = np.full(num_targets, -1)
    # Of several values for one place the last stays: here the most confident.
    first[nearest[hits[::-1]]] = hits[::-1]
    # [found], positions in the order of confidence
    found = np.sort(first[first >= 0])
    precision = np.arange(1, len(found) + 1) / (found + 1)
    # Precision is largest where an object was just found.
    envelope = np.maximum.accumulate(precision[::-1])
    return envelope.sum() / num_objects
