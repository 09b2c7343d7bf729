"""Vocabulary of object properties, shared by all datasets.

Stored indices start at 0; -1 pads the rows of images with fewer objects. Datasets with
named classes (CLEVR v1.0, the synthetic scenes) use the order below. The files of CLEVR
with masks (DeepMind's multi-object datasets) do not name the classes. They reserve 0
for the background and number classes from 1, so the store holds their number minus 1.
"""

from collections.abc import Mapping

import numpy as np

SHAPES = ("cube", "sphere", "cylinder")
SIZES = ("small", "large")
MATERIALS = ("rubber", "metal")
COLORS = ("gray", "red", "blue", "green", "brown", "purple", "cyan", "yellow")
# sRGB of CLEVR's colors, in this order.
RGB = (
    (87, 87, 87),
    (173, 35, 35),
    (42, 75, 215),
    (29, 105, 20),
    (129, 74, 25),
    (129, 38, 192),
    (41, 208, 208),
    (255, 238, 51),
)

# World coordinates that map to 0 and 1 in x, y and z.
POSITION_LOW = np.array([-3.0, -3.0, 0.35], np.float32)
POSITION_HIGH = np.array([3.0, 3.0, 0.7], np.float32)

_ONE_HOT = {
    "shape": len(SHAPES),
    "size": len(SIZES),
    "material": len(MATERIALS),
    "color": len(COLORS),
}
# Columns of the store that make up a property vector.
COLUMNS = (*_ONE_HOT, "position", "visibility")
DIM = sum(_ONE_HOT.values()) + 3 + 1


def to_vectors(columns: Mapping[str, np.ndarray]) -> np.ndarray:
    """Return property vectors built from the columns of a store.

    Args:
      columns: Indices `shape`, `size`, `material` and `color`, `[..., M]`; `position`
        in world units, `[..., M, 3]`; `visibility`, `[..., M]`, 1 for an object.

    Returns:
      Vectors, `[..., M, 19]` float32: one-hot shape (3), size (2), material (2) and
      color (8); position scaled to [0, 1] (3); visibility (1). Rows without an object
      are zero.
    """
    real = columns["shape"][..., None] >= 0
    parts = [
        columns[name][..., None] == np.arange(count) for name, count in _ONE_HOT.items()
    ]
    low, high = POSITION_LOW, POSITION_HIGH
    parts.append((columns["position"] - low) / (high - low))
    parts.append(columns["visibility"][..., None])
    return np.where(real, np.concatenate(parts, axis=-1), 0).astype(np.float32)
