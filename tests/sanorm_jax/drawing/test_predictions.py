"""The figure is chosen by what is predicted, and by what the dataset has."""

import numpy as np
import pytest

from sanorm_jax import tasks
from sanorm_jax.drawing import figures, predictions
from tests import tiny


@pytest.fixture
def dataset(data_dir):
    config = tiny.config(data_dir, "property_prediction")
    return tasks.create(config, tasks.open_dataset(config)).dataset


def _without(dataset, *names):
    for name in names:
        del dataset.fields[name]
    return dataset


@pytest.mark.parametrize(
    ("predicted", "missing", "shown"),
    [
        (("segmentation", "masks"), (), "segmentation"),
        (("masks", "segmentation"), ("segmentation",), "segmentation"),
        (("segmentation", "predicted_properties"), (), "predicted_properties"),
        (("segmentation", "predicted_properties"), ("pixel_coords",), "segmentation"),
    ],
)
def test_predictions_and_fields_determine_the_figure(
    dataset, predicted, missing, shown
):
    chosen = predictions.choose(predicted, _without(dataset, *missing).fields)
    assert chosen.prediction == shown
    assert ("glyph" in chosen.draw.__doc__) == (shown == "predicted_properties")


def test_predictions_without_a_figure_are_rejected(dataset):
    with pytest.raises(ValueError, match="no figure shows any of count, slots"):
        predictions.choose(("count", "slots"), dataset.fields)


@pytest.mark.parametrize("name", ["segmentation", "predicted_properties"])
def test_examples_of_the_split_are_drawn(dataset, name):
    indices = np.array([3, 1])
    drawing = predictions.choose((name,), dataset.fields)
    examples = drawing.read(dataset, "validation", indices)
    expected = dataset.read("validation", "image", indices)
    np.testing.assert_array_equal(examples["image"], expected)
    arrays = {
        "segmentation": np.zeros((2, 16, 16), np.int32),
        "predicted_properties": np.full((2, 4, 19), 0.7, np.float32),
    }
    pictures = [
        figures.to_array(drawing.draw(examples, predicted))
        for predicted in ({"a": arrays}, {"a": arrays, "b": arrays})
    ]
    # A model more is a row more.
    assert pictures[0].shape != pictures[1].shape


def test_figure_without_true_labels(dataset):
    fields = _without(dataset, "segmentation").fields
    drawing = predictions.choose(("segmentation",), fields)
    assert drawing.read(dataset, "validation", np.arange(2)).keys() == {"image"}
