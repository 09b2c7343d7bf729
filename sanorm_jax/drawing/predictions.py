"""Figures of a task's predictions, chosen by the names of the predictions."""

import dataclasses
from collections.abc import Callable, Collection, Mapping
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from sanorm_jax.data import pipeline
from sanorm_jax.drawing import figures, glyphs

# Number of images whose objects the camera is fitted to.
_CAMERA_EXAMPLES = 256

Examples = dict[str, Any]
# Name of the model -> name of the prediction -> array `[B, ...]`.
Predicted = Mapping[str, Mapping[str, np.ndarray]]


@dataclasses.dataclass(frozen=True)
class Drawing:
    """A figure of examples and, below each, the predictions of models.

    Attributes:
      prediction: Name of the prediction to draw.
      needs: Fields that the dataset must have.
      caption: Description of the figure.
      read: Function that reads the examples of a dataset, a split and indices `[B]`.
      draw: Function that draws the examples from `read` and their predictions.
      details: Description of the rows that are added for a single model.
    """

    prediction: str
    needs: tuple[str, ...]
    caption: str
    read: Callable[[pipeline.Dataset, str, np.ndarray], Examples]
    draw: Callable[[Examples, Predicted], Figure]
    details: str = ""


def choose(predictions: Collection[str], fields: Collection[str]) -> Drawing:
    """Return the drawing for names of predictions and of the fields of the examples.

    Raises:
      ValueError: No drawing fits.
    """
    for drawing in DRAWINGS:
        drawable = all(field in fields for field in drawing.needs)
        if drawable and drawing.prediction in predictions:
            return drawing
    raise ValueError(f"no figure shows any of {', '.join(predictions)}")


def _read_segmentation(dataset, split, indices) -> Examples:
    fields = [name for name in ("image", "segmentation") if name in dataset.fields]
    return {field: dataset.read(split, field, indices) for field in fields}


def _draw_segmentation(examples: Examples, predicted: Predicted) -> Figure:
    """Draw segmentations, and the masks if there is a single model."""
    first = next(iter(predicted.values()))
    return figures.segmentation_grid(
        examples["image"],
        examples.get("segmentation"),
        {name: p["segmentation"] for name, p in predicted.items()},
        first.get("masks") if len(predicted) == 1 else None,
    )


def _read_properties(dataset, split, indices) -> Examples:
    fields = ("image", "properties", "pixel_coords")
    examples = {field: dataset.read(split, field, indices) for field in fields}
    some = np.arange(min(_CAMERA_EXAMPLES, dataset.num_examples(split)))
    vectors = dataset.read(split, "properties", some)
    pixels = dataset.read(split, "pixel_coords", some)
    real = vectors[..., -1] != 0
    camera = glyphs.fit_camera(glyphs.positions(vectors[real]), pixels[real][..., :2])
    return examples | {"camera": camera}


def _draw_properties(examples: Examples, predicted: Predicted) -> Figure:
    """Draw true and predicted objects as glyphs."""
    return glyphs.property_grid(
        examples["image"],
        examples["properties"],
        examples["pixel_coords"][..., :2],
        {name: p["predicted_properties"] for name, p in predicted.items()},
        examples["camera"],
    )


# `choose` takes the first that fits.
DRAWINGS = (
    Drawing(
        prediction="predicted_properties",
        needs=("image", "properties", "pixel_coords"),
        caption="true and predicted objects. Square: cube, disc: sphere, upright: "
        "cylinder; a white dot marks metal. A white rim marks a prediction that "
        "matches an object within one unit, a cross one that does not, a dotted ring "
        "an object without a match",
        read=_read_properties,
        draw=_draw_properties,
    ),
    Drawing(
        prediction="segmentation",
        needs=("image",),
        caption="true objects and predicted segments. A segment has the color of the "
        "object it is matched with; other colors are unmatched segments",
        read=_read_segmentation,
        draw=_draw_segmentation,
        details="The outlines of the segments are drawn over the image, with those of "
        "the true objects in white. The rows below show the mask of each slot.",
    ),
)


def read_examples(
    dataset: pipeline.Dataset, split: str, indices: np.ndarray
) -> Examples:
    """Return all fields of the examples `[B]` that the drawings of a dataset need."""
    examples: Examples = {}
    for drawing in DRAWINGS:
        if all(field in dataset.fields for field in drawing.needs):
            examples |= drawing.read(dataset, split, indices)
    return examples
