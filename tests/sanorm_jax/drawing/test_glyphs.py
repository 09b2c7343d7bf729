import numpy as np
import pytest

from sanorm_jax.data import properties
from sanorm_jax.data.sources import shapes
from sanorm_jax.drawing import figures, glyphs
from sanorm_jax.metrics import average_precision


def _scenes(count: int):
    rows = [shapes.render(0, "train", i, 32, 1, 4) for i in range(count)]
    columns = {name: np.stack([row[name] for row in rows]) for name in rows[0]}
    return columns, properties.to_vectors(columns)


def test_camera_is_fitted_to_its_images():
    rng = np.random.default_rng(0)
    camera = rng.normal(size=(3, 4))
    camera[2] = (0.1, 0.2, 0.1, 9)
    positions = rng.uniform(-3, 3, (40, 3))
    pixels = glyphs.project(camera, positions)
    found = glyphs.fit_camera(positions, pixels)
    np.testing.assert_allclose(glyphs.project(found, positions), pixels, rtol=1e-6)
    new = rng.uniform(-3, 3, (5, 3))
    np.testing.assert_allclose(
        glyphs.project(found, new), glyphs.project(camera, new), rtol=1e-6
    )


def test_mean_camera_is_close_to_each_camera(tmp_path):
    columns, vectors = _scenes(60)
    real = vectors[..., -1] != 0
    places = glyphs.positions(vectors[real])
    np.testing.assert_allclose(places, columns["position"][real], atol=1e-5)
    pixels = columns["pixel_coords"][real][:, :2]
    camera = glyphs.fit_camera(places, pixels)
    off = np.linalg.norm(glyphs.project(camera, places) - pixels, axis=-1)
    # The cameras are jittered; 32 pixels a side.
    assert off.mean() < 1


def test_objects_are_matched_once_in_order_of_confidence():
    _, vectors = _scenes(1)
    true = np.zeros((1, 4, 19), np.float32)
    true[0, 0] = vectors[0, 0]
    true[0, 1] = vectors[0, 0]
    true[0, 1, 15] = true[0, 0, 15] + 0.5  # three units along x
    predicted = np.repeat(vectors[:1, :1], 5, 1)
    predicted[0, :, -1] = (0.6, 0.9, 0.8, 0.7, 0.95)
    predicted[0, 2, 15] = true[0, 1, 15] + 0.05
    predicted[0, 3, 15] -= 0.4  # 2.4 units off: farther than a unit
    predicted[0, 4, :3] = np.roll(predicted[0, 4, :3], 1)  # another shape
    found = average_precision.finds(predicted, true, 1.0, "correct")
    np.testing.assert_array_equal(found, [[-1, 0, 1, -1, -1]])


def test_correct_and_wrong_predictions_look_different():
    columns, vectors = _scenes(3)
    real = vectors[..., -1] != 0
    camera = glyphs.fit_camera(
        glyphs.positions(vectors[real]), columns["pixel_coords"][real][:, :2]
    )
    wrong = vectors.copy()
    wrong[..., :3] = np.roll(wrong[..., :3], 1, axis=-1)

    def draw(predicted):
        figure = glyphs.property_grid(
            columns["image"],
            vectors,
            columns["pixel_coords"][..., :2],
            {"model": predicted},
            camera,
        )
        rings = [len(axis.patches) for axis in figure.axes]
        marks = [len(axis.lines) for axis in figure.axes]
        return figures.to_array(figure), rings, marks

    right, rings, marks = draw(vectors)
    # Axes row by row: three images, three of the truth, three of the model.
    assert rings == [0] * 9
    assert marks[6:] == marks[3:6]
    picture, rings, marks = draw(wrong)
    np.testing.assert_array_equal(rings[6:], columns["num_objects"])
    np.testing.assert_array_equal(
        np.array(marks[6:]) - marks[3:6], columns["num_objects"]
    )
    assert picture.shape == right.shape and (picture != right).any()
    # What is not believed to be there is not drawn.
    unsure = vectors.copy()
    unsure[..., -1] *= 0.4
    _, rings, marks = draw(unsure)
    assert marks[6:] == [0, 0, 0]
    np.testing.assert_array_equal(rings[6:], columns["num_objects"])


@pytest.mark.parametrize("threshold", [0.5, np.inf])
def test_matches_agree_with_average_precision(threshold):
    rng = np.random.default_rng(3)
    _, vectors = _scenes(20)
    predicted = np.repeat(vectors, 2, axis=1)
    predicted[..., 15:18] += rng.normal(0, 0.1, predicted[..., 15:18].shape)
    predicted[..., -1] = rng.uniform(0.1, 1, predicted.shape[:2])
    found = average_precision.finds(predicted, vectors, threshold, "correct")
    # As many in all as recall reaches: precision 1 for each found gives the recall.
    (area,) = average_precision.average_precision(
        np.where((found >= 0)[..., None], predicted, 0),
        vectors,
        (threshold,),
        "correct",
    )
    recall = (found >= 0).sum() / (vectors[..., -1] != 0).sum()
    assert area == pytest.approx(recall, rel=0.02)
    assert recall > 0.3
