"""Synthetic scenes in the style of Tetrominoes.

Three tetrominoes lie on a black background of 35 x 35 pixels without overlap. There are
19 shapes (seven pieces with their reflections and rotations) of 5 x 5 pixels per cell,
in six colors. A scene is a pure function of (seed, split, index). The original dataset
(Kabra et al., multi-object datasets, 2019) is read with `--dataset=tetrominoes`.
"""

import functools

import numpy as np

from . import rendered, tetrominoes
from .base import Example, Options, Source
from .tetrominoes import COLORS, RGB, SIZE

_CELL = 5
_DEFAULT_OBJECTS = (3, 3)
_MAX_OBJECTS = 5
_PER_SHARD = 1024
_PICTURES = ("####", "##/##", "###/.#.", "##./.##", ".##/##.", "###/#..", "###/..#")
SPLITS = {"train": 60_000, "validation": 320, "test": 320}


def _orientations() -> list[np.ndarray]:
    """Return the cells, `[rows, columns]`, of the 19 distinct tetrominoes."""
    shapes = []
    for picture in _PICTURES:
        cells = np.array([[c == "#" for c in row] for row in picture.split("/")])
        for turns in range(4):
            turned = np.rot90(cells, turns)
            if not any(np.array_equal(turned, shape) for shape in shapes):
                shapes.append(turned)
    return shapes


SHAPES = tuple(_orientations())


def _place(rng, labels, number, shape) -> tuple[float, float, float] | None:
    """Place a shape in `labels` at random; return its center, or None if none is free.

    The center is `(x, y, 0)` in pixels.
    """
    box = np.array(shape.shape) * _CELL
    cells = np.kron(shape, np.ones((_CELL, _CELL), bool))
    for _ in range(100):
        top, left = rng.integers(0, SIZE - box + 1)
        window = labels[top : top + box[0], left : left + box[1]]
        if not window[cells].any():
            window[cells] = number
            return left + box[1] / 2, top + box[0] / 2, 0.0
    return None


def render(
    seed: int,
    split: str,
    index: int,
    min_objects: int,
    max_objects: int,
    num_rows: int,
) -> Example:
    """Render a scene of tetrominoes, numbered in order of placement.

    Returns:
      The fields of `tetrominoes.fields(num_rows)`. `shape` is an index into `SHAPES`;
      `pixel_coords` is `(x, y, 0)` of the center of the bounding box, in pixels.
    """
    rng = np.random.default_rng([seed, list(SPLITS).index(split), index])
    count = int(rng.integers(min_objects, max_objects + 1))
    centers = [None]
    while None in centers:
        labels = np.zeros((SIZE, SIZE), np.uint8)
        kinds = rng.integers(len(SHAPES), size=count)
        # Restart the scene if one of them does not fit.
        centers = [_place(rng, labels, i + 1, SHAPES[k]) for i, k in enumerate(kinds)]
    colors = rng.integers(len(COLORS), size=count)
    palette = np.concatenate([np.zeros((1, 3)), 255 * RGB[colors]]).astype(np.uint8)
    return tetrominoes.example(
        palette[labels],
        labels,
        kinds,
        colors,
        np.array(centers),
        np.ones(count),
        num_rows,
    )


def _example_at(split: str, index: int, *, settings: dict) -> Example:
    limits = rendered.limits(settings, split)
    return render(settings["seed"], split, index, *limits, settings["max_objects"])


def build(options: Options) -> Source:
    """Return the source of rendered tetrominoes."""
    options.reject("source")
    tetrominoes.check_image_size(options)
    settings = rendered.settings(options, SPLITS, _DEFAULT_OBJECTS, _MAX_OBJECTS)
    # Stores of renderers whose output differs must never be mixed.
    settings |= {"renderer": 1, "image_size": SIZE}
    return Source(
        source={"generator": "data.sources.blocks"},
        settings=settings,
        fields=tetrominoes.fields(settings["max_objects"]),
        splits=options.splits or SPLITS,
        examples_per_shard=_PER_SHARD,
        example=functools.partial(_example_at, settings=settings),
    )
