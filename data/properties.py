"""The one vocabulary of object properties, for all datasets.

Stored indices count from 0; -1 fills up the rows of images with fewer objects. The
files of CLEVR with masks (DeepMind's multi-object datasets) count from 1, 0 being the
background, and do not name their classes: their index is stored less one. Datasets with
names (CLEVR v1.0, the embedded scenes) use the order below.
"""

from collections.abc import Mapping

import numpy as np

SHAPES = ("cube", "sphere", "cylinder")
SIZES = ("small", "large")
MATERIALS = ("rubber", "metal")
COLORS = ("gray", "red", "blue", "green", "brown", "purple", "cyan", "yellow")
# sRGB of CLEVR's colours, in this order.
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

# World units that [0, 1] stands for in x, y and z.
POSITION_LOW = np.array([-3.0, -3.0, 0.35], np.float32)
POSITION_HIGH = np.array([3.0, 3.0, 0.7], np.float32)

_ONE_HOT = {
    "shape": len(SHAPES),
    "size": len(SIZES),
    "material": len(MATERIALS),
    "color": len(COLORS),
}
# What a vector is made of, in the store's columns.
COLUMNS = (*_ONE_HOT, "position", "visibility")
DIM = sum(_ONE_HOT.values()) + 3 + 1


def to_vectors(columns: Mapping[str, np.ndarray]) -> np.ndarray:
    """Return property vectors from the columns of a store.

    Args:
      columns: `shape`, `size`, `material`, `color` [..., M] indices, `position`
        [..., M, 3] in world units, `visibility` [..., M], 1 for an object.

    Returns:
      float32 [..., M, 19]: one-hot shape 3, size 2, material 2, color 8; position 3,
      scaled to [0, 1]; visibility. Rows without an object are zero.
    """
    real = columns["shape"][..., None] >= 0
    parts = [
        columns[name][..., None] == np.arange(count) for name, count in _ONE_HOT.items()
    ]
    low, high = POSITION_LOW, POSITION_HIGH
    parts.append((columns["position"] - low) / (high - low))
    parts.append(columns["visibility"][..., None])
    return np.where(real, np.concatenate(parts, axis=-1), 0).astype(np.float32)
