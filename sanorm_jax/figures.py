"""Figures fit for print and for colour-blind readers.

Lines use the palette of Okabe and Ito ("Color universal design", 2008) together with
markers and line styles, segments the same palette continued by Paul Tol's "muted"
(2021) together with white outlines, heat maps "cividis" together with their numbers:
no figure needs its colours to be read. They are made without pyplot, so that they
may be drawn in any thread and are freed when done with.
"""

import contextlib
import io
import os
import pathlib
import threading
from collections.abc import Mapping, Sequence

import matplotlib as mpl
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from scipy.optimize import linear_sum_assignment

OKABE_ITO = (
    *("#0072B2", "#E69F00", "#009E73", "#D55E00"),
    *("#56B4E9", "#CC79A7", "#F0E442"),
)
TOL_MUTED = (
    *("#332288", "#882255", "#117733", "#88CCEE", "#DDCC77"),
    *("#999933", "#AA4499", "#44AA99", "#CC6677"),
)
_SEGMENTS = np.array([to_rgb(color) for color in OKABE_ITO + TOL_MUTED])
_BACKGROUND = np.array(to_rgb("#D0D0D0"))
# Yellow is too faint for a line on white; black takes its place.
_LINES = (*OKABE_ITO[:6], "#000000")
_MARKERS = ("o", "s", "^", "D", "v", "P", "X")
_STYLES = ("-", "--", "-.", ":", (0, (5, 1)), (0, (3, 1, 1, 1, 1, 1)), (0, (1, 1)))

_DPI = 200
# Inches: the text width of a page, and the height that leaves room for a caption.
_PAGE_WIDTH = 6.9
_PAGE_HEIGHT = 9.0
_RC = {
    "font.family": "sans-serif",
    "font.size": 8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.6,
    "svg.hashsalt": "sanorm_jax",
}

_LOCK = threading.Lock()


def segmentation_grid(
    images: np.ndarray,
    true: np.ndarray | None,
    predicted: Mapping[str, np.ndarray],
    masks: np.ndarray | None = None,
) -> Figure:
    """Shows scenes side by side; below each its segmentations and slots.

    Rows: image, true segmentation, each predicted one, each slot's mask (the image
    fading to white). A predicted segment has the colour of the true object that it
    is matched with, the background is grey; a mask is framed in the colour that its
    slot has in the first predicted segmentation. All fits on one page.

    Args:
      images: `[B, H, W, 3]`, uint8 or floats in [0, 1].
      true: Integer labels `[B, h, w]`, 0 for the background; None leaves them out.
      predicted: Integer labels `[B, h, w]` by name. Sides may differ.
      masks: `[B, K, h, w]` in [0, 1]; None leaves them out.

    Raises:
      ValueError: for arrays of different numbers of images.
    """
    images = _as_floats(images)
    B = len(images)
    for array in (true, masks, *predicted.values()):
        if array is not None and len(array) != B:
            raise ValueError(f"{len(array)} segmentations or masks for {B} images")
    rows = {"image": list(images)}
    if true is not None:
        count = int(np.max(true, initial=0)) + 1
        colors = np.concatenate([_BACKGROUND[None], _segment_colors(count - 1)])
        rows["true"] = [_paint(labels, colors) for labels in np.asarray(true)]
    frames = None
    for name, labels in predicted.items():
        labels = np.asarray(labels)
        count = int(np.max(labels, initial=0)) + 1
        if frames is None and masks is not None:
            count = max(count, masks.shape[1])
        colors = [
            _matched_colors(None if true is None else np.asarray(true[b]), s, count)
            for b, s in enumerate(labels)
        ]
        frames = colors if frames is None else frames
        rows[name] = [_paint(s, c) for s, c in zip(labels, colors, strict=True)]
    num_plain = len(rows)
    if masks is not None:
        masks = np.clip(np.asarray(masks, np.float32), 0, 1)
        for k in range(masks.shape[1]):
            rows[f"slot {k + 1}"] = [
                _fade(image, mask[k]) for image, mask in zip(images, masks, strict=True)
            ]
    label_width = 0.15 + 0.06 * max(map(len, rows))
    cell = min((_PAGE_WIDTH - label_width) / B, _PAGE_HEIGHT / len(rows), 1.6)
    size = (label_width + cell * B, cell * len(rows))
    with _style():
        figure = Figure(figsize=size, dpi=_DPI)
        axes = figure.subplots(
            len(rows),
            B,
            squeeze=False,
            gridspec_kw={
                "left": label_width / size[0],
                **{"right": 0.995, "bottom": 0.005, "top": 0.995},
                **{"wspace": 0.06, "hspace": 0.06},
            },
        )
        for row, (name, pictures) in enumerate(rows.items()):
            for column, picture in enumerate(pictures):
                axis = axes[row, column]
                axis.imshow(picture, interpolation="nearest", aspect="auto")
                axis.set(xticks=[], yticks=[])
                frame = None
                if row >= num_plain and frames is not None:
                    frame = frames[column][row - num_plain]
                for spine in axis.spines.values():
                    spine.set(visible=frame is not None, color=frame, linewidth=1.5)
            axes[row, 0].set_ylabel(
                name, rotation=0, ha="right", va="center", fontsize=min(8, 30 * cell)
            )
    return figure


def sweep_plot(
    lines: Mapping[str, Mapping[float, Sequence[float]]],
    *,
    xlabel: str,
    ylabel: str,
    references: Mapping[str, float] | None = None,
    mark: tuple[str, float] | None = None,
) -> Figure:
    """Plots a metric against, say, the number of slots, a line for each variant.

    Lines join the means over seeds; a band reaches from the least to the largest
    seed, which are drawn as small dots.

    Args:
      lines: For each variant, the values of all seeds by place on the x axis.
      xlabel: Name of the x axis.
      ylabel: Name of the y axis.
      references: Values drawn as thin horizontal lines, by name, e.g. an oracle.
      mark: Name and place of a thin vertical line, e.g. the slots trained with.
    """
    with _style():
        figure = Figure(figsize=(4.2, 3.0), dpi=_DPI, layout="constrained")
        axis = figure.subplots()
        axis.grid(axis="y", color="#E4E4E4", linewidth=0.6)
        axis.set_axisbelow(True)
        for i, (name, points) in enumerate(lines.items()):
            color = _LINES[i % len(_LINES)]
            x = sorted(points)
            values = [np.asarray(points[place], float) for place in x]
            if any(len(v) > 1 for v in values):
                least, most = ([f(v) for v in values] for f in (np.min, np.max))
                axis.fill_between(x, least, most, color=color, alpha=0.13, lw=0)
                for place, v in zip(x, values, strict=True):
                    axis.plot([place] * len(v), v, ".", color=color, ms=2.5, alpha=0.7)
            axis.plot(
                x,
                [v.mean() for v in values],
                color=color,
                label=name,
                linestyle=_STYLES[i % len(_STYLES)],
                marker=_MARKERS[i % len(_MARKERS)],
                markersize=4.5,
                markeredgecolor="white",
                markeredgewidth=0.5,
                linewidth=1.4,
            )
        for name, value in (references or {}).items():
            axis.axhline(value, color="#777777", linewidth=0.7, linestyle=(0, (1, 2)))
            axis.annotate(
                name,
                (1, value),
                xycoords=("axes fraction", "data"),
                **{"xytext": (0, 2), "textcoords": "offset points"},
                **{"ha": "right", "fontsize": 7, "color": "#555555"},
            )
        if mark:
            axis.axvline(mark[1], color="#777777", linewidth=0.7)
            axis.annotate(
                mark[0],
                (mark[1], 0),
                xycoords=("data", "axes fraction"),
                **{"xytext": (3, 3), "textcoords": "offset points"},
                **{"fontsize": 7, "color": "#555555"},
            )
        places = sorted({place for points in lines.values() for place in points})
        if len(places) <= 12:
            axis.set_xticks(places)
        else:
            whole = all(float(place).is_integer() for place in places)
            axis.xaxis.set_major_locator(MaxNLocator(integer=whole))
        axis.set(xlabel=xlabel, ylabel=ylabel)
        if len(lines) > 1:
            # Handles long enough that line styles can be told apart, and as many
            # columns as the names leave room for.
            width = 0.6 + 0.06 * max(map(len, lines))
            figure.legend(
                loc="outside upper left",
                ncols=max(1, min(len(lines), int(4.2 / width))),
                **{"frameon": False, "handlelength": 3, "columnspacing": 1.2},
            )
    return figure


def heat_map(
    values: np.ndarray,
    *,
    rows: Sequence[float | str],
    columns: Sequence[float | str],
    ylabel: str,
    xlabel: str,
    label: str,
    limits: tuple[float, float] | None = None,
) -> Figure:
    """Shows a metric over two settings, e.g. slots x objects, with its numbers.

    Args:
      values: `[len(rows), len(columns)]`; NaN leaves a cell empty.
      rows: Names of the rows, from the top.
      columns: Names of the columns.
      ylabel: What the rows are.
      xlabel: What the columns are.
      label: What the values are.
      limits: Ends of the colour scale, to compare figures; by default the values'.
    """
    values = np.ma.masked_invalid(np.asarray(values, float))
    if values.shape != (len(rows), len(columns)):
        raise ValueError(f"{values.shape} values, {len(rows)} x {len(columns)} names")
    low, high = limits or (values.min(), values.max())
    size = (1.6 + 0.42 * len(columns), 0.9 + 0.3 * len(rows))
    with _style():
        figure = Figure(figsize=size, dpi=_DPI, layout="constrained")
        axis = figure.subplots()
        picture = axis.imshow(
            values, cmap="cividis", vmin=low, vmax=high, aspect="auto"
        )
        axis.set_xticks(range(len(columns)), [str(name) for name in columns])
        axis.set_yticks(range(len(rows)), [str(name) for name in rows])
        axis.tick_params(length=0)
        axis.spines[:].set_visible(False)
        axis.set(xlabel=xlabel, ylabel=ylabel)
        for (row, column), value in np.ndenumerate(values):
            if (
                values.mask is np.ma.nomask
                or not np.ma.getmaskarray(values)[row, column]
            ):
                # cividis is dark in its lower half
                ink = "white" if picture.norm(value) < 0.5 else "black"
                axis.text(
                    *(column, row, f"{value:.2f}"),
                    **{"ha": "center", "va": "center", "fontsize": 7, "color": ink},
                )
        bar = figure.colorbar(picture, ax=axis, label=label, pad=0.02)
        bar.outline.set_visible(False)
    return figure


def encode(figure: Figure, suffix: str) -> bytes:
    """Returns the figure as a file's content: equal figures give equal bytes.

    Args:
      figure: The figure.
      suffix: `.png`, `.svg` or `.pdf`.
    """
    buffer = io.BytesIO()
    # A date in the file would make equal figures differ.
    metadata = {".svg": {"Date": None}, ".pdf": {"CreationDate": None}}.get(suffix)
    with _style():
        figure.savefig(buffer, format=suffix[1:], dpi=_DPI, metadata=metadata)
    return buffer.getvalue()


def save(figure: Figure, path: str | pathlib.Path) -> pathlib.Path:
    """Writes a figure, whole or not at all; the suffix is as for `encode`.

    Returns:
      The path. Its folder is made if it is missing.
    """
    path = pathlib.Path(path)
    content = encode(figure, path.suffix)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        partial.write_bytes(content)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
    return path


def to_array(figure: Figure) -> np.ndarray:
    """Returns the figure as a batch of one image, uint8 `[1, H, W, 3]`."""
    canvas = FigureCanvasAgg(figure)
    with _style():
        canvas.draw()
    return np.asarray(canvas.buffer_rgba())[None, ..., :3].copy()


@contextlib.contextmanager
def _style():
    """The settings of this module, for one thread at a time: they are global."""
    with _LOCK, mpl.rc_context(_RC):
        yield


def _as_floats(images):
    images = np.asarray(images)
    if images.dtype == np.uint8:
        return images.astype(np.float32) / 255
    return np.clip(images.astype(np.float32), 0, 1)


def _segment_colors(count):
    """Colours `[count, 3]`; each further round through the palette is lighter."""
    index = np.arange(count)
    lighter = 1 - 0.55 ** (index // len(_SEGMENTS))[:, None]
    colors = _SEGMENTS[index % len(_SEGMENTS)]
    return colors + (1 - colors) * lighter


def _matched_colors(true, predicted, count):
    """Colours `[count, 3]` of predicted segments, after the objects they cover."""
    if true is None:
        return _segment_colors(count)
    num_true = int(true.max(initial=0)) + 1
    true = _enlarge(true, predicted.shape)
    table = np.zeros((num_true, count), np.int64)
    np.add.at(table, (true.ravel(), predicted.ravel()), 1)
    objects, segments = linear_sum_assignment(table, maximize=True)
    palette = np.concatenate([_BACKGROUND[None], _segment_colors(num_true + count)])
    color = np.full(count, -1)
    # A match by force, without a common pixel, means nothing.
    shared = table[objects, segments] > 0
    color[segments[shared]] = objects[shared]
    color[color < 0] = num_true + np.arange((color < 0).sum())
    return palette[color]


def _enlarge(array, shape):
    """Nearest pixels of `[h, w, ...]` for a picture of `shape` = (H, W)."""
    rows, columns = (
        np.arange(new) * old // new
        for new, old in zip(shape, array.shape[:2], strict=True)
    )
    return array[rows[:, None], columns]


def _paint(labels, colors):
    """Picture of a label map, with white outlines between its segments."""
    scale = max(1, -(-256 // min(labels.shape)))
    labels = labels.repeat(scale, 0).repeat(scale, 1)
    picture = colors[labels]
    edge = np.zeros(labels.shape, bool)
    edge[1:] |= labels[1:] != labels[:-1]
    edge[:, 1:] |= labels[:, 1:] != labels[:, :-1]
    # Two pixels wide
    edge[:-1] |= edge[1:]
    edge[:, :-1] |= edge[:, 1:]
    picture[edge] = 1.0
    return picture


def _fade(image, mask):
    """The image where the mask is one, white where it is zero."""
    mask = _enlarge(mask, image.shape[:2])[..., None]
    return image * mask + (1 - mask)
