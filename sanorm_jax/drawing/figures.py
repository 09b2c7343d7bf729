"""Figures for print and for color-blind readers.

Lines differ in color (Okabe and Ito, "Color universal design", 2008), marker and style.
Segments also use Paul Tol's "muted" palette (2021) and white outlines. Heat maps use
"cividis" and show their values. Figures do not use pyplot, so any thread may draw them.
"""

import contextlib
import io
import pathlib
import threading
from collections.abc import Mapping, Sequence

import matplotlib as mpl
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from PIL import Image

from sanorm_jax.core import files
from sanorm_jax.drawing import painting

_DPI = 200
# Width of the text on a page and height available for a figure, in inches.
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
    """Show scenes side by side, with segmentations and slots below each.

    The rows are the image, the true segmentation, the predicted segmentations, outlines
    over the image if there is a single prediction (true objects in white), and the mask
    of each slot (the image fades to white). A predicted segment has the color of its
    matched true object; the background is gray. The frame of a mask has the color of
    the slot in the first prediction. The figure fits on one page.

    Args:
      images: Images `[B, H, W, 3]`, uint8 or floats in [0, 1].
      true: Integer labels `[B, h, w]`, 0 for the background and -1 (white) for
        unlabeled pixels; None to leave them out.
      predicted: Integer labels `[B, h, w]` by name. Sizes may differ.
      masks: Masks `[B, K, h, w]` in [0, 1]; None to leave them out.
    """
    images = painting.as_floats(images)
    rows = {"image": list(images)}
    if true is not None:
        count = int(np.max(true, initial=0)) + 1
        objects = painting.segment_colors(count - 1)
        # Label -1 takes the last color.
        colors = np.vstack([painting.BACKGROUND, objects, painting.IGNORED])
        rows["true"] = [painting.paint(labels, colors) for labels in np.asarray(true)]
    frames = None
    for name, labels in predicted.items():
        labels = np.asarray(labels)
        count = int(np.max(labels, initial=0)) + 1
        if frames is None and masks is not None:
            count = max(count, masks.shape[1])
        objects = [None] * len(images) if true is None else np.asarray(true)
        colors = [
            painting.matched_colors(t, s, count)
            for t, s in zip(objects, labels, strict=True)
        ]
        frames = colors if frames is None else frames
        rows[name] = [painting.paint(s, c) for s, c in zip(labels, colors, strict=True)]
        if len(predicted) == 1:
            rows["outlines"] = [
                painting.outline(*each)
                for each in zip(images, labels, colors, objects, strict=True)
            ]
    num_plain = len(rows)
    if masks is not None:
        masks = np.clip(np.asarray(masks, np.float32), 0, 1)
        for k in range(masks.shape[1]):
            rows[f"slot {k + 1}"] = [
                painting.fade(image, mask[k])
                for image, mask in zip(images, masks, strict=True)
            ]
    figure, axes = picture_grid(rows)
    for column, colors in enumerate(frames or ()):
        for axis, color in zip(axes[num_plain:, column], colors, strict=False):
            axis.spines[:].set(visible=True, color=color, linewidth=1.5)
    return figure


def picture_grid(rows: Mapping[str, Sequence[np.ndarray]]) -> tuple[Figure, np.ndarray]:
    """Return a figure of named rows of pictures, and its axes `[rows, columns]`."""
    columns = len(next(iter(rows.values())))
    label_width = 0.15 + 0.08 * max(map(len, rows))
    cell = min((_PAGE_WIDTH - label_width) / columns, _PAGE_HEIGHT / len(rows), 1.6)
    size = (label_width + cell * columns, cell * len(rows))
    with _style():
        figure = Figure(figsize=size, dpi=_DPI)
        axes = figure.subplots(
            len(rows),
            columns,
            squeeze=False,
            gridspec_kw={
                "left": label_width / size[0],
                "right": 0.995,
                "bottom": 0.005,
                "top": 0.995,
                "wspace": 0.06,
                "hspace": 0.06,
            },
        )
        for (name, pictures), line in zip(rows.items(), axes, strict=True):
            for axis, picture in zip(line, pictures, strict=True):
                axis.imshow(picture, interpolation="nearest", aspect="auto")
                axis.set(xticks=[], yticks=[])
                axis.spines[:].set_visible(False)
            line[0].set_ylabel(
                name, rotation=0, ha="right", va="center", fontsize=min(8, 30 * cell)
            )
    return figure, axes


def segmentation_overlay(image: np.ndarray, labels: np.ndarray) -> Figure:
    """Show an image, and next to it the image tinted by its labeled segments.

    Args:
      image: Image `[H, W, 3]`, uint8 or floats in [0, 1].
      labels: Integer labels `[H, W]`.
    """
    image = painting.as_floats(image)
    colors = painting.segment_colors(int(labels.max()) + 1)
    pictures = [image, painting.overlay(image, labels, colors)]
    with _style():
        figure = Figure(figsize=(4.6, 2.3), dpi=_DPI)
        edges = {"left": 0, "right": 1, "bottom": 0, "top": 1, "wspace": 0.02}
        for axis, picture in zip(
            figure.subplots(1, 2, gridspec_kw=edges), pictures, strict=True
        ):
            # Both pictures use the pixels of `labels`.
            extent = (-0.5, labels.shape[1] - 0.5, labels.shape[0] - 0.5, -0.5)
            axis.imshow(picture, interpolation="nearest", extent=extent)
            axis.set_axis_off()
        for label, (row, column) in painting.middles(labels).items():
            axis.text(
                column,
                row,
                str(label),
                ha="center",
                va="center",
                fontsize=6,
                bbox={"boxstyle": "round,pad=0.15", "fc": "white", "lw": 0},
            )
    return figure


def sweep_plots(
    panels: Mapping[str, Mapping[str, painting.Line]],
    *,
    xlabel: str,
    ylabel: str,
    references: Mapping[str, Mapping[str, float | Mapping[float, float]]] | None = None,
    mark: tuple[str, float] | None = None,
    bands: Mapping[str, painting.Band] | None = None,
    share_scale: bool = True,
) -> Figure:
    """Plot metrics against, for example, the number of slots, one line per variant.

    Lines are means over seeds. A band spans the range of the seeds, drawn as dots.

    Args:
      panels: Lines of each plot by title: the values of all seeds by position on the x
        axis, for each variant. A variant looks the same in all plots.
      xlabel: Name of the x axis.
      ylabel: Name of the y axis.
      references: Thin dotted lines of each plot by title and name, such as an oracle: a
        value, or values by position on the x axis.
      mark: Name and position of a thin vertical line, such as the slots in training.
      bands: Band behind the lines of each plot, by title.
      share_scale: Whether the plots share the scale of the y axis.
    """
    names = list(dict.fromkeys(name for lines in panels.values() for name in lines))
    width = 4.2 if len(panels) == 1 else 3.45 * len(panels)
    with _style():
        figure = Figure(figsize=(width, 3.0), dpi=_DPI, layout="constrained")
        axes = figure.subplots(1, len(panels), sharey=share_scale, squeeze=False)[0]
        for axis, (title, lines) in zip(axes, panels.items(), strict=True):
            if band := (bands or {}).get(title):
                painting.draw_band(axis, band)
            for name, line in lines.items():
                painting.draw_line(axis, names.index(name), name, line)
            painting.draw_references(axis, (references or {}).get(title, {}), mark)
            positions = sorted({x for line in lines.values() for x in line})
            # As many labels as fit next to each other.
            if sum(len(f"{x:g}") for x in positions) <= 32:
                axis.set_xticks(positions)
            else:
                integer = all(float(x).is_integer() for x in positions)
                axis.xaxis.set_major_locator(MaxNLocator(integer=integer))
            axis.set(xlabel=xlabel)
            axis.set_title(title, fontsize=8)
        axes[0].set(ylabel=ylabel)
        if len(names) > 1:
            # Long handles show the line styles. The names limit the number of columns.
            entry = 0.6 + 0.06 * max(map(len, names))
            handles = {
                handle.get_label(): handle
                for axis in axes
                for handle in axis.get_legend_handles_labels()[0]
            }
            figure.legend(
                handles=[handles[name] for name in names],
                loc="outside upper left",
                ncols=max(1, min(len(names), int(width / entry))),
                frameon=False,
                handlelength=3,
                columnspacing=1.2,
            )
    return figure


def heat_maps(
    panels: Mapping[str, np.ndarray],
    *,
    rows: Sequence[float | str],
    columns: Sequence[float | str],
    ylabel: str,
    xlabel: str,
    label: str,
) -> Figure:
    """Show a metric over two settings, such as slots x objects, with its numbers.

    Panels share a color scale, two in a row. Their values are
    `[len(rows), len(columns)]`, by title. NaN leaves a cell empty.
    """
    panels = {
        title: np.ma.masked_invalid(np.asarray(values, float))
        for title, values in panels.items()
    }
    stacked = np.ma.stack(list(panels.values()))
    low, high = stacked.min(), stacked.max()
    across = min(len(panels), 2)
    down = -(-len(panels) // across)
    size = (1.6 + 0.42 * len(columns) * across, 0.9 + (0.3 * len(rows) + 0.3) * down)
    with _style():
        figure = Figure(figsize=size, dpi=_DPI, layout="constrained")
        grid = figure.subplots(down, across, sharex=True, sharey=True, squeeze=False)
        axes = grid.ravel()
        for axis, (title, values) in zip(axes, panels.items(), strict=False):
            # Not an image: reports embed the figure as SVG, which is smaller.
            picture = axis.pcolormesh(values, cmap="cividis", vmin=low, vmax=high)
            axis.set_title(title, fontsize=8)
            axis.set_xticks(np.arange(len(columns)) + 0.5, map(str, columns))
            axis.set_yticks(np.arange(len(rows)) + 0.5, map(str, rows))
            axis.tick_params(length=0)
            axis.spines[:].set_visible(False)
            for (row, column), value in np.ndenumerate(values.filled(np.nan)):
                if np.isnan(value):
                    continue
                # The lower half of cividis is dark.
                ink = "white" if picture.norm(value) < 0.5 else "black"
                center = {"ha": "center", "va": "center"}
                x, y = column + 0.5, row + 0.5
                axis.text(x, y, f"{value:.2f}", fontsize=7, color=ink, **center)
        axes[0].invert_yaxis()  # shared by all axes
        for axis in axes[len(panels) :]:
            axis.set_visible(False)
        for axis in grid[:, 0]:
            axis.set(ylabel=ylabel)
        for axis in grid[-1]:
            axis.set(xlabel=xlabel)
        bar = figure.colorbar(picture, ax=axes, label=label, pad=0.02)
        bar.outline.set_visible(False)
    return figure


def encode(figure: Figure, suffix: str, description: str = "") -> bytes:
    """Return the content of a figure's file, the same bytes for equal figures.

    `suffix` is `.png`, `.svg` or `.pdf`. A PNG file keeps the `description`, see
    `read_description`.
    """
    buffer = io.BytesIO()
    # Dates would make equal figures differ.
    metadata = {
        ".svg": {"Date": None},
        ".pdf": {"CreationDate": None},
        ".png": {"Description": description} if description else None,
    }.get(suffix)
    with _style():
        figure.savefig(buffer, format=suffix[1:], dpi=_DPI, metadata=metadata)
    return buffer.getvalue()


def read_description(path: pathlib.Path) -> str:
    """Return the description of a PNG file, empty if it has none."""
    with Image.open(path) as image:
        return image.info.get("Description", "")


def save(figure: Figure, path: pathlib.Path, description: str = ""):
    """Write a figure atomically, creating its folder; see `encode`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    files.write(path, encode(figure, path.suffix, description))


def to_array(figure: Figure) -> np.ndarray:
    """Return the figure as a batch of one image `[1, H, W, 3]`, uint8."""
    canvas = FigureCanvasAgg(figure)
    with _style():
        canvas.draw()
    return np.asarray(canvas.buffer_rgba())[None, ..., :3].copy()


@contextlib.contextmanager
def _style():
    """Apply this module's settings, which are global, in one thread at a time."""
    with _LOCK, mpl.rc_context(_RC):
        yield
