"""Average precision of predicted object properties over a split."""

import numpy as np

from sanorm_jax.core.errors import check_name

THRESHOLDS = (np.inf, 1.0, 0.5, 0.25, 0.125)

# Length of the range [0, 1] of x, y and z in world units. The original implementation
# uses 6 for all three, although z has a range of 0.35.
Z_RANGES = {"reference": (6.0, 6.0, 6.0), "correct": (6.0, 6.0, 0.35)}

# Slices of the one-hot properties in a vector of 19: shape, size, material, color.
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
    """Return the average precision of a split at each distance threshold.

    Source: Locatello et al., "Object-Centric Learning with Slot Attention" (NeurIPS
    2020), section 4.2. Each prediction is compared with the nearest true object of its
    image that has the same shape, size, material and color (arg max). Predictions are
    processed in the order of confidence, then of image and slot. A prediction is a true
    positive if its object is closer than the threshold and no earlier prediction found
    it. The average precision is the area under the precision envelope over recall.

    Args:
      predictions: Property vectors `[S, K, 19]`; the last entry is the confidence.
      targets: Property vectors `[S, M, 19]`; the last entry is 1 for an object and 0
        for padding.
      thresholds: Distances in world units; infinity for no limit.
      z_range: Scale of z. `reference` scales z by 6, like x and y, as the original
        implementation does. `correct` scales it by 0.35, the range of z in the data.

    Returns:
      The average precision `[T]` at T thresholds, float64; NaN without true objects.

    Raises:
      UserError: The `z_range` is unknown.
      ValueError: The shapes do not fit.
    """
    check_name("z_range", z_range, Z_RANGES)
    S, M, P = targets.shape
    if predictions.shape[0] != S or predictions.shape[2] != P or P != _NUM_PROPERTIES:
        raise ValueError(
            f"predictions {predictions.shape} and targets {targets.shape} do not agree "
            f"in the number of images or do not have {_NUM_PROPERTIES} properties"
        )
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


def attributes(properties: np.ndarray) -> dict[str, np.ndarray]:
    """Return `shape`, `size`, `material` and `color` of vectors `[..., 19]`."""
    names = ("shape", "size", "material", "color")
    return {
        name: properties[..., part].argmax(-1)
        for name, part in zip(names, _ONE_HOT, strict=True)
    }


def finds(
    predictions: np.ndarray, targets: np.ndarray, threshold: float, z_range: str
) -> np.ndarray:
    """Return the object of its image that each prediction matches, `[S, K]`; else -1.

    The rule and the arguments are those of `average_precision`.
    """
    real = targets[..., -1] != 0
    nearest, distance = _nearest(predictions, targets, real, Z_RANGES[z_range])
    found = np.where(distance < threshold, nearest, -1)
    order = np.argsort(-predictions[..., -1], axis=-1, kind="stable")
    for image, row in zip(found, order, strict=True):
        # Of several predictions that match an object, keep the most confident one.
        _, first = np.unique(image[row], return_index=True)
        later = np.setdiff1d(np.arange(len(row)), first)
        image[row[later]] = -1
    return found


def _nearest(predictions, targets, real, scale):
    """Return index and distance `[S, K]` of the nearest object of equal attributes."""
    S, K, _ = predictions.shape
    nearest = np.zeros((S, K), np.int64)
    distance = np.full((S, K), np.inf)
    predicted_code, true_code = _code(predictions), _code(targets)
    for start in range(0, S, _IMAGES_AT_ONCE):
        part = slice(start, start + _IMAGES_AT_ONCE)
        p = predictions[part, :, None, POSITION].astype(np.float64)
        t = targets[part, None, :, POSITION].astype(np.float64)
        # [s, K, M]; a sum over axes is faster than a norm over a last axis of size 3
        squared = sum(((t[..., i] - p[..., i]) * scale[i]) ** 2 for i in range(3))
        same = predicted_code[part, :, None] == true_code[part, None, :]
        same &= real[part, None, :] & ~np.isnan(squared)
        squared = np.where(same, squared, np.inf)
        best = squared.argmin(-1)
        nearest[part] = best
        best = np.take_along_axis(squared, best[..., None], -1)[..., 0]
        distance[part] = np.sqrt(best)
    return nearest, distance


def _code(properties):
    """Encode the four attributes (arg max) as one integer, `[S, K]`."""
    code = 0
    for part, index in zip(_ONE_HOT, attributes(properties).values(), strict=True):
        code = code * (part.stop - part.start) + index
    return code


def _area(nearest, near, num_objects, num_targets):
    """Return the area under the precision envelope over recall.

    `nearest` is the index of the nearest object of each prediction, in order of
    confidence, and `near` whether that object is closer than the threshold.
    """
    hits = np.flatnonzero(near)
    first = np.full(num_targets, -1)
    # If an index occurs several times, the last assignment, the most confident, counts.
    first[nearest[hits[::-1]]] = hits[::-1]
    # [found]; ranks of the true positives
    found = np.sort(first[first >= 0])
    precision = np.arange(1, len(found) + 1) / (found + 1)
    # Precision has its local maxima at the true positives.
    envelope = np.maximum.accumulate(precision[::-1])
    return envelope.sum() / num_objects
