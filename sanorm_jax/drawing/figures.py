"""Figures fit for print and for colour-blind readers.

Lines use the palette of Okabe and Ito ("Color universal design", 2008) together with
markers and line styles, segments the same palette continued by Paul Tol's "muted"
(2021) together with white outlines, heat maps "cividis" together with their numbers:
no figure needs its colours to be read. They are made without pyplot, so that they
may be drawn in any thread and are freed when done with.
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
    """Show scenes side by side; below each its segmentations and slots.

    Rows: image, true segmentation, each predicted one, the outlines of a single one
    over the image (true objects in white), each slot's mask (the image fading to
    white). A predicted segment has the colour of the true object that it is matched
    with, the background is grey; a mask is framed in the colour that its slot has in
    the first predicted segmentation. All fits on one page.

    Args:
      images: `[B, H, W, 3]`, uint8 or floats in [0, 1].
      true: Integer labels `[B, h, w]`, 0 for the background, -1 (white) for pixels
        without a label; None leaves them out.
      predicted: Integer labels `[B, h, w]` by name. Sides may differ.
      masks: `[B, K, h, w]` in [0, 1]; None leaves them out.

    Raises:
      ValueError: for arrays of different numbers of images.
    """
    images = painting.as_floats(images)
    B = len(images)
    for array in (true, masks, *predicted.values()):
        if array is not None and len(array) != B:
            raise ValueError(f"{len(array)} segmentations or masks for {B} images")
    rows = {"image": list(images)}
    if true is not None:
        count = int(np.max(true, initial=0)) + 1
        # The last is that of label -1.
        colors = np.concatenate(
            [
                painting.BACKGROUND[None],
                painting.segment_colors(count - 1),
                painting.IGNORED[None],
            ]
        )
        rows["true"] = [painting.paint(labels, colors) for labels in np.asarray(true)]
    frames = None
    for name, labels in predicted.items():
        labels = np.asarray(labels)
        count = int(np.max(labels, initial=0)) + 1
        if frames is None and masks is not None:
            count = max(count, masks.shape[1])
        colors = [
            painting.matched_colors(
                None if true is None else np.asarray(true[b]), s, count
            )
            for b, s in enumerate(labels)
        ]
        frames = colors if frames is None else frames
        rows[name] = [painting.paint(s, c) for s, c in zip(labels, colors, strict=True)]
        if len(predicted) == 1:
            objects = [None] * B if true is None else np.asarray(true)
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
    """Return rows of pictures, named on the left, on a page; and their axes."""
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
    """Show an image, and beside it the same tinted by its segments, with their labels.

    Args:
      image: `[H, W, 3]`, uint8 or floats in [0, 1].
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
            # Both in the pixels of the image
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


def sweep_plot(
    lines: Mapping[str, painting.Line],
    *,
    xlabel: str,
    ylabel: str,
    references: Mapping[str, float | Mapping[float, float]] | None = None,
    mark: tuple[str, float] | None = None,
) -> Figure:
    """Plot a metric against, say, the number of slots, a line for each variant.

    Lines join the means over seeds; a band reaches from the least to the largest
    seed, which are drawn as small dots.

    Args:
      lines: For each variant, the values of all seeds by place on the x axis.
      xlabel: Name of the x axis.
      ylabel: Name of the y axis.
      references: Values drawn as thin horizontal lines, by name, e.g. an oracle; or
        values by place on the x axis.
      mark: Name and place of a thin vertical line, e.g. the slots trained with.
    """
    return sweep_plots(
        {"": lines},
        xlabel=xlabel,
        ylabel=ylabel,
        mark=mark,
        references={"": references or {}},
    )


def sweep_plots(
    panels: Mapping[str, Mapping[str, painting.Line]],
    *,
    xlabel: str,
    ylabel: str,
    references: Mapping[str, Mapping[str, float | Mapping[float, float]]] | None = None,
    mark: tuple[str, float] | None = None,
) -> Figure:
    """Draw sweep plots side by side, with one scale and one legend.

    Args:
      panels: The lines of each plot, by its title. A variant looks the same in all.
      xlabel: Name of the x axis.
      ylabel: Name of the y axis.
      references: Those of each plot, by its title.
      mark: As for `sweep_plot`, in every plot.
    """
    names = list(dict.fromkeys(name for lines in panels.values() for name in lines))
    width = 4.2 if len(panels) == 1 else 3.45 * len(panels)
    with _style():
        figure = Figure(figsize=(width, 3.0), dpi=_DPI, layout="constrained")
        axes = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
        for axis, (title, lines) in zip(axes, panels.items(), strict=True):
            for name, line in lines.items():
                painting.draw_line(axis, names.index(name), name, line)
            painting.draw_references(axis, (references or {}).get(title, {}), mark)
            places = sorted({place for line in lines.values() for place in line})
            if len(places) <= 12:
                axis.set_xticks(places)
            else:
                whole = all(float(place).is_integer() for place in places)
                axis.xaxis.set_major_locator(MaxNLocator(integer=whole))
            axis.set(xlabel=xlabel)
            axis.set_title(title, fontsize=8)
        axes[0].set(ylabel=ylabel)
        if len(names) > 1:
            # Handles long enough that line styles can be told apart, and as many
            # columns as the names leave room for.
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
    limits: tuple[float, float] | None = None,
) -> Figure:
    """Show a metric over two settings, e.g. slots x objects, with its numbers.

    Several are drawn with one colour scale, two in a row.

    Args:
      panels: The values `[len(rows), len(columns)]` of each, by its title; NaN leaves
        a cell empty.
      rows: Names of the rows, from the top.
      columns: Names of the columns.
      ylabel: What the rows are.
      xlabel: What the columns are.
      label: What the values are.
      limits: Ends of the colour scale, to compare figures; by default the values'.
    """
    panels = {
        title: np.ma.masked_invalid(np.asarray(values, float))
        for title, values in panels.items()
    }
    for values in panels.values():
        if values.shape != (len(rows), len(columns)):
            raise ValueError(
                f"{values.shape} values, {len(rows)} x {len(columns)} names"
            )
    stacked = np.ma.stack(list(panels.values()))
    low, high = limits or (stacked.min(), stacked.max())
    across = min(len(panels), 2)
    down = -(-len(panels) // across)
    size = (1.6 + 0.42 * len(columns) * across, 0.9 + (0.3 * len(rows) + 0.3) * down)
    with _style():
        figure = Figure(figsize=size, dpi=_DPI, layout="constrained")
        axes = figure.subplots(
            down, across, sharex=True, sharey=True, squeeze=False
        ).ravel()
        for axis, (title, values) in zip(axes, panels.items(), strict=False):
            picture = axis.imshow(
                values, cmap="cividis", vmin=low, vmax=high, aspect="auto"
            )
            axis.set_title(title, fontsize=8)
            axis.set_xticks(range(len(columns)), [str(name) for name in columns])
            axis.set_yticks(range(len(rows)), [str(name) for name in rows])
            axis.tick_params(length=0)
            axis.spines[:].set_visible(False)
            for (row, column), value in np.ndenumerate(values.filled(np.nan)):
                if np.isnan(value):
                    continue
                # cividis is dark in its lower half
                ink = "white" if picture.norm(value) < 0.5 else "black"
                axis.text(
                    column,
                    row,
                    f"{value:.2f}",
                    ha="center",
                    va="center",
                    fontsize=7,
                    color=ink,
                )
        for axis in axes[len(panels) :]:
            axis.set_visible(False)
        grid = axes.reshape(down, across)
        for axis in grid[:, 0]:
            axis.set(ylabel=ylabel)
        for axis in grid[-1]:
            axis.set(xlabel=xlabel)
        bar = figure.colorbar(picture, ax=axes, label=label, pad=0.02)
        bar.outline.set_visible(False)
    return figure


def encode(figure: Figure, suffix: str, description: str = "") -> bytes:
    """Return the figure as a file's content: equal figures give equal bytes.

    Args:
      figure: The figure.
      suffix: `.png`, `.svg` or `.pdf`.
      description: Caption kept in the metadata of a PNG file; see `read_description`.
    """
    buffer = io.BytesIO()
    # A date in the file would make equal figures differ.
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


def save(
    figure: Figure, path: str | pathlib.Path, description: str = ""
) -> pathlib.Path:
    """Write a figure, whole or not at all; suffix and description as for `encode`.

    Returns:
      The path. Its folder is made if it is missing.
    """
    path = pathlib.Path(path)
    return write(encode(figure, path.suffix, description), path)


def write(content: bytes, path: pathlib.Path) -> pathlib.Path:
    """Write the content of a file, whole or not at all; see `save`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    files.write(path, content)
    return path


def to_array(figure: Figure) -> np.ndarray:
    """Return the figure as a batch of one image, uint8 `[1, H, W, 3]`."""
    canvas = FigureCanvasAgg(figure)
    with _style():
        canvas.draw()
    return np.asarray(canvas.buffer_rgba())[None, ..., :3].copy()


@contextlib.contextmanager
def _style():
    """Return the settings of this module, for one thread at a time: they are global."""
    with _LOCK, mpl.rc_context(_RC):
        yield
