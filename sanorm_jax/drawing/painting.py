"""Drawing of the lines and segments in figures."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.colors import to_rgb
from scipy.ndimage import distance_transform_cdt
from scipy.optimize import linear_sum_assignment

OKABE_ITO = (
    "#0072B2",
    "#E69F00",
    "#009E73",
    "#D55E00",
    "#56B4E9",
    "#CC79A7",
    "#F0E442",
)
TOL_MUTED = (
    "#332288",
    "#882255",
    "#117733",
    "#88CCEE",
    "#DDCC77",
    "#999933",
    "#AA4499",
    "#44AA99",
    "#CC6677",
)
_SEGMENTS = np.array([to_rgb(color) for color in OKABE_ITO + TOL_MUTED])
BACKGROUND = np.array(to_rgb("#D0D0D0"))
IGNORED = np.ones(3)  # pixels without a true label
# Yellow is too faint for a line on white, so black replaces it.
_LINES = (*OKABE_ITO[:6], "#000000", *TOL_MUTED)
_MARKERS = ("o", "s", "^", "D", "v", "P", "X")
_STYLES = ("-", "--", "-.", ":", (0, (5, 1)), (0, (3, 1, 1, 1, 1, 1)), (0, (1, 1)))

# Line of a plot: the values of all seeds, by position on the x axis.
Line = Mapping[float, Sequence[float]]
# Lowest and highest expected value, by position on the x axis.
Band = Mapping[float, tuple[float, float]]


def draw_line(axis, i: int, name: str, line: Line):
    """Draw the mean of the i-th variant, its seeds as dots, and their range."""
    color = _LINES[i % len(_LINES)]
    x = sorted(line)
    values = [np.asarray(line[position], float) for position in x]
    axis.grid(axis="y", color="#E4E4E4", linewidth=0.6)
    axis.set_axisbelow(True)
    if any(len(v) > 1 for v in values):
        low, high = ([f(v) for v in values] for f in (np.min, np.max))
        axis.fill_between(x, low, high, color=color, alpha=0.13, lw=0)
        for position, v in zip(x, values, strict=True):
            axis.plot([position] * len(v), v, ".", color=color, ms=2.5, alpha=0.7)
    axis.plot(
        x,
        [v.mean() for v in values],
        color=color,
        label=name,
        linewidth=1.4,
        linestyle=_STYLES[i % len(_STYLES)],
        marker=_MARKERS[i % len(_MARKERS)],
        markersize=4.5,
        markeredgecolor="white",
        markeredgewidth=0.5,
    )


def draw_band(axis, band: Band):
    """Draw the expected range of a line, as a bar if it has a single position."""
    x = sorted(band)
    low, high = ([band[position][end] for position in x] for end in (0, 1))
    axis.fill_between(x, low, high, color="#DDDDDD", lw=0)
    axis.vlines(x, low, high, color="#DDDDDD", lw=1)


def draw_references(axis, references, mark):
    """Draw the references and the mark of `figures.sweep_plots`."""
    thin = {"color": "#777777", "linewidth": 0.7}
    small = {"fontsize": 7, "color": "#555555"}
    for name, value in references.items():
        end = value
        if isinstance(value, Mapping):
            axis.plot(list(value), list(value.values()), linestyle=(0, (1, 2)), **thin)
            end = value[max(value)]
        else:
            axis.axhline(value, linestyle=(0, (1, 2)), **thin)
        axis.annotate(
            name,
            (1, end),
            xycoords=("axes fraction", "data"),
            xytext=(0, 2),
            textcoords="offset points",
            ha="right",
            **small,
        )
    if mark:
        axis.axvline(mark[1], **thin)
        axis.annotate(
            mark[0],
            (mark[1], 0),
            xycoords=("data", "axes fraction"),
            xytext=(3, 3),
            textcoords="offset points",
            **small,
        )


def as_floats(images: np.ndarray) -> np.ndarray:
    """Return uint8 or float images as floats in [0, 1]."""
    images = np.asarray(images)
    if images.dtype == np.uint8:
        return images.astype(np.float32) / 255
    return np.clip(images.astype(np.float32), 0, 1)


def segment_colors(count):
    """Return colors `[count, 3]`; each repetition of the palette is lighter."""
    index = np.arange(count)
    lighter = 1 - 0.55 ** (index // len(_SEGMENTS))[:, None]
    colors = _SEGMENTS[index % len(_SEGMENTS)]
    return colors + (1 - colors) * lighter


def palette(count):
    """Return colors `[count, 3]`, first of the background, then of segments."""
    return np.concatenate([BACKGROUND[None], segment_colors(count - 1)])


def matched_indices(true, predicted, count):
    """Return indices `[count]` in the palette of predicted segments.

    A segment has the index of the true object that it is matched to.
    """
    if true is None:
        return 1 + np.arange(count)
    num_true = int(true.max(initial=0)) + 1
    true = enlarge(true, predicted.shape)
    table = np.zeros((num_true, count), np.int64)
    known = true >= 0
    np.add.at(table, (true[known], predicted[known]), 1)
    objects, segments = linear_sum_assignment(table, maximize=True)
    index = np.full(count, -1)
    # The assignment may pair a segment with an object that it does not overlap.
    shared = table[objects, segments] > 0
    index[segments[shared]] = objects[shared]
    index[index < 0] = num_true + np.arange((index < 0).sum())
    return index


def matched_colors(true, predicted, count):
    """Return colors `[count, 3]` of predicted segments, matched to true objects."""
    index = matched_indices(true, predicted, count)
    return palette(index.max() + 1)[index]


def enlarge(array, shape):
    """Resize `[h, w, ...]` to `shape` = (H, W) by nearest-neighbor sampling."""
    rows, columns = (
        np.arange(new) * old // new
        for new, old in zip(shape, array.shape[:2], strict=True)
    )
    return array[rows[:, None], columns]


def paint(labels, colors):
    """Return the picture of a label map, with white lines between its segments."""
    labels = _large(labels)
    picture = colors[labels]
    picture[_edges(labels)] = 1.0
    return picture


def _large(labels):
    scale = max(1, -(-256 // min(labels.shape)))
    return labels.repeat(scale, 0).repeat(scale, 1)


def _edges(labels):
    """Return the mask of the edges between segments, two pixels wide."""
    edge = np.zeros(labels.shape, bool)
    edge[1:] |= labels[1:] != labels[:-1]
    edge[:, 1:] |= labels[:, 1:] != labels[:, :-1]
    edge[:-1] |= edge[1:]
    edge[:, :-1] |= edge[:, 1:]
    return edge


def outline(image, labels, colors, true=None):
    """Return the image with the inner outline of each segment in its color.

    Segments in the color of the background have none. True objects, if given, are
    outlined in white.
    """
    labels = _large(labels)
    picture = enlarge(image, labels.shape).copy()
    width = max(2, min(labels.shape) // 64)
    for label in np.unique(labels).tolist():
        if np.array_equal(colors[label], BACKGROUND):
            continue
        # Segments continue beyond the edge of the image.
        inside = np.pad(labels == label, 1, "edge")
        depth = distance_transform_cdt(inside)[1:-1, 1:-1]
        picture[(depth > 0) & (depth <= width)] = colors[label]
    if true is not None:
        picture[_edges(enlarge(true, labels.shape))] = 1.0
    return picture


def overlay(image, labels, colors):
    """Return the image tinted by its segments, with white lines between them."""
    picture = paint(labels, colors)
    outline = (picture == 1).all(-1, keepdims=True)
    image = enlarge(image, picture.shape[:2])
    return np.where(outline, picture, (picture + image) / 2)


def middles(labels):
    """Return the pixel (row, column) of each label farthest from other labels."""
    positions = {}
    for label in np.unique(labels).tolist():
        # Segments end at the edge of the image.
        inside = np.pad(labels == label, 1)
        depth = distance_transform_cdt(inside)[1:-1, 1:-1]
        positions[label] = np.unravel_index(np.argmax(depth), depth.shape)
    return positions


def fade(image, mask):
    """Return the image where the mask is one, white where it is zero."""
    mask = enlarge(mask, image.shape[:2])[..., None]
    return image * mask + (1 - mask)
