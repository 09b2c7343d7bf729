"""Figures show what they are given, and need no colors to be read."""

import concurrent.futures
import itertools

import matplotlib as mpl
import numpy as np
import pytest
from matplotlib.colors import to_rgb

from sanorm_jax.drawing import figures, painting


def scenes(num_slots=3, side=12):
    images = np.zeros((2, side, side, 3), np.uint8)
    true = np.zeros((2, side, side), np.int32)
    true[:, 2:5, 2:5] = 1
    true[:, 7:10, 7:10] = 2
    # Slot 0 has object 2, slot 1 the background, slot 2 object 1.
    predicted = np.array([1, 2, 0])[true]
    masks = np.stack([predicted == k for k in range(num_slots)], 1).astype(np.float32)
    return images, true, predicted, masks


def shown(figure, row, num_columns=2, column=0):
    return figure.axes[row * num_columns + column].images[0].get_array()


def test_grid_has_the_expected_rows():
    images, true, predicted, masks = scenes()
    figure = figures.segmentation_grid(images, true, {"masks": predicted}, masks)
    labels = [axis.get_ylabel() for axis in figure.axes[::2]]
    slots = ["slot 1", "slot 2", "slot 3"]
    assert labels == ["image", "true", "masks", "outlines", *slots]
    without = figures.segmentation_grid(images, None, {"masks": predicted})
    labels = [axis.get_ylabel() for axis in without.axes[::2]]
    assert labels == ["image", "masks", "outlines"]
    both = figures.segmentation_grid(images, true, {"a": predicted, "b": predicted})
    assert [axis.get_ylabel() for axis in both.axes[::2]] == ["image", "true", "a", "b"]


def test_outlines_show_where_slots_and_objects_agree():
    images, true, predicted, _ = scenes(side=64)
    # The slot of object 1 reaches beyond it.
    predicted[:, 2:5, 5:8] = 2
    figure = figures.segmentation_grid(images, true, {"p": predicted})
    picture, scale = shown(figure, 3), 4
    colors = painting.matched_colors(true[0], predicted[0], 3)
    at = lambda row, column: picture[row * scale, column * scale]  # noqa: E731
    # The rim of the segment has its color, the object's own edge is white, and what
    # lies inside both, or in the background, is the image.
    np.testing.assert_allclose(picture[3 * scale + 2, 8 * scale - 1], colors[2])
    assert (at(3, 5) == 1).all()
    np.testing.assert_array_equal(at(20, 20), [0, 0, 0])
    np.testing.assert_array_equal(picture[9 * scale - 2, 9 * scale - 2], [0, 0, 0])


def test_segments_have_the_color_of_their_object():
    images, true, predicted, masks = scenes()
    figure = figures.segmentation_grid(images, true, {"masks": predicted}, masks)
    np.testing.assert_array_equal(shown(figure, 1), shown(figure, 2))
    frames = [
        to_rgb(figure.axes[2 * row].spines["left"].get_edgecolor()) for row in (4, 5, 6)
    ]
    center = shown(figure, 1).shape[0] // 12
    object_2 = shown(figure, 1)[8 * center + center // 2, 8 * center + center // 2]
    np.testing.assert_allclose(frames[0], object_2)
    np.testing.assert_allclose(frames[1], to_rgb("#D0D0D0"))


def test_touching_segments_are_divided_by_a_white_line():
    images, true, predicted, _ = scenes()
    picture = shown(figures.segmentation_grid(images, true, {"p": predicted}), 1)
    assert (picture == 1).all(-1).any()


def test_mask_fades_the_image_to_white():
    images, true, predicted, masks = scenes()
    slot = shown(figures.segmentation_grid(images, true, {"p": predicted}, masks), 4)
    np.testing.assert_array_equal(slot[8, 8], [0, 0, 0])
    np.testing.assert_array_equal(slot[0, 0], [1, 1, 1])


def test_many_slots_stay_on_the_page_and_keep_their_colors():
    images, true, _, _ = scenes()
    masks = np.random.default_rng(0).random((2, 24, 12, 12))
    figure = figures.segmentation_grid(images, true, {"p": masks.argmax(1)}, masks)
    assert figure.get_figheight() <= 9 and figure.get_figwidth() <= 7
    frames = {
        tuple(axis.spines["left"].get_edgecolor()) for axis in figure.axes[2 * 4 :: 2]
    }
    assert len(frames) == 24


def test_sizes_may_differ():
    images, true, predicted, masks = scenes()
    large = predicted.repeat(2, 1).repeat(2, 2)
    figure = figures.segmentation_grid(images, true, {"p": large}, masks[..., ::2, ::2])
    assert shown(figure, 4).shape == (12, 12, 3)


def test_sweep_lines_differ_without_color():
    lines = {f"variant {i}": {4: [0.1 * i, 0.2], 7: [0.3, 0.4]} for i in range(7)}
    figure = figures.sweep_plots(
        {"": lines},
        xlabel="number of slots",
        ylabel="FG-ARI",
        references={"": {"token oracle": 0.95}},
        mark=("trained with", 7),
    )
    axis = figure.axes[0]
    named = [line for line in axis.lines if line.get_label() in lines]
    looks = {(line.get_marker(), str(line._unscaled_dash_pattern)) for line in named}
    assert len(named) == len(looks) == 7
    np.testing.assert_allclose(named[3].get_ydata(), [0.25, 0.35])
    assert len(axis.collections) == 7
    assert {text.get_text() for text in axis.texts} == {"token oracle", "trained with"}


def test_line_colors_differ_in_lightness():
    # Relative luminance, so that a gray print still tells most lines apart.
    light = [np.dot(to_rgb(c), [0.2126, 0.7152, 0.0722]) for c in painting.OKABE_ITO]
    gaps = [abs(a - b) for a, b in itertools.pairwise(light)]
    assert min(gaps) > 0.03


def test_heat_map_prints_its_numbers():
    values = np.array([[0.25, np.nan], [0.5, 1.0]])
    names = {"rows": [7, 11], "columns": [3, 4], "ylabel": "slots", "xlabel": "objects"}
    figure = figures.heat_maps({"": values}, **names, label="FG-ARI")
    texts = [text.get_text() for text in figure.axes[0].texts]
    assert texts == ["0.25", "0.50", "1.00"]


@pytest.mark.parametrize("suffix", [".png", ".svg", ".pdf"])
def test_equal_figures_give_identical_files(tmp_path, suffix):
    def draw(name):
        figure = figures.sweep_plots({"": {"a": {1: [2.0]}}}, xlabel="x", ylabel="y")
        path = tmp_path / "new" / f"{name}{suffix}"
        figures.save(figure, path)
        return path.read_bytes()

    assert draw("one") == draw("two")
    names = {path.name for path in (tmp_path / "new").iterdir()}
    assert names == {f"one{suffix}", f"two{suffix}"}


def test_drawing_in_threads_does_not_change_settings():
    def draw(i):
        figure = figures.sweep_plots({"": {"a": {i: [2.0]}}}, xlabel="x", ylabel="y")
        return figures.to_array(figure), figures.encode(figure, ".svg")

    before = dict(mpl.rcParams)
    alone = [draw(i) for i in range(4)]
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        together = list(pool.map(draw, range(4)))
    assert dict(mpl.rcParams) == before
    for (array, svg), (same_array, same_svg) in zip(alone, together, strict=True):
        np.testing.assert_array_equal(array, same_array)
        assert svg == same_svg


def test_failed_save_leaves_the_old_figure(tmp_path):
    figure = figures.sweep_plots({"": {"a": {1: [2.0]}}}, xlabel="x", ylabel="y")
    path = tmp_path / "figure.png"
    figures.save(figure, path)
    before = path.read_bytes()
    figure.axes[0].set_xlabel("$\\notacommand$")
    with pytest.raises(ValueError, match="notacommand"):
        figures.save(figure, path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_array_is_a_batch_of_one_image():
    figure = figures.segmentation_grid(*scenes()[:2], {"p": scenes()[2]})
    array = figures.to_array(figure)
    assert array.dtype == np.uint8
    assert array.shape[0] == 1 and array.shape[3] == 3
    assert array.std() > 0


def test_long_names_stay_on_the_page():
    images, labels = np.zeros((1, 8, 8, 3)), np.zeros((1, 8, 8), int)
    for name in ("weighted_mean", "scalar_batch_norm_single"):
        figure = figures.segmentation_grid(images, labels, {name: labels})
        figure.draw_without_rendering()
        for axis in figure.axes:
            assert axis.yaxis.label.get_window_extent().x0 >= 0
