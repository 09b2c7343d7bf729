import numpy as np
import pytest

from sanorm_jax.core.errors import UserError
from sanorm_jax.data import prepare
from sanorm_jax.data.sources import blocks, tetrominoes
from sanorm_jax.data.sources.base import Options
from sanorm_jax.data.store import Store

NUM_ROWS = 5


@pytest.fixture(scope="module")
def scenes():
    rows = [blocks.render(0, "train", i, 2, NUM_ROWS, NUM_ROWS) for i in range(300)]
    return {name: np.stack([row[name] for row in rows]) for name in rows[0]}


def test_nineteen_distinct_tetrominoes():
    seen = {(shape.shape, shape.tobytes()) for shape in blocks.SHAPES}
    assert len(seen) == len(blocks.SHAPES) == 19
    for shape in blocks.SHAPES:
        assert shape.sum() == 4
        assert shape.any(0).all() and shape.any(1).all()
        # Each cell has a neighbor: no shape falls apart.
        padded = np.pad(shape, 1)
        neighbors = sum(np.roll(padded, step, axis) for step in (1, -1)
                         for axis in (0, 1))  # fmt: skip
        assert (neighbors[padded] > 0).all()


def test_each_object_is_its_shape_in_its_color_at_its_place(scenes):
    cells = np.ones((5, 5), bool)
    for i, count in enumerate(scenes["num_objects"]):
        labels, image = scenes["segmentation"][i], scenes["image"][i]
        assert set(np.unique(labels)) == set(range(count + 1))
        assert not image[labels == 0].any()
        for row in range(count):
            shape = blocks.SHAPES[scenes["shape"][i, row]]
            mask = labels == row + 1
            # None hides another: all of it is there.
            rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
            window = mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
            np.testing.assert_array_equal(window, np.kron(shape, cells))
            color = 255 * tetrominoes.RGB[scenes["color"][i, row]]
            np.testing.assert_array_equal(image[mask], np.tile(color, (100, 1)))
            middle = [(columns[0] + columns[-1] + 1) / 2, (rows[0] + rows[-1] + 1) / 2]
            np.testing.assert_array_equal(scenes["pixel_coords"][i, row, :2], middle)
    real = np.arange(NUM_ROWS) < scenes["num_objects"][:, None]
    np.testing.assert_array_equal(scenes["visibility"], real)
    np.testing.assert_array_equal(scenes["shape"] >= 0, real)
    assert set(scenes["num_objects"]) == {2, 3, 4, 5}
    assert set(scenes["shape"][real]) == set(range(19))
    assert set(scenes["color"][real]) == set(range(6))


def test_scenes_are_a_function_of_seed_split_and_index(scenes):
    again = blocks.render(0, "train", 7, 2, NUM_ROWS, NUM_ROWS)
    for name, values in again.items():
        np.testing.assert_array_equal(values, scenes[name][7])
    for other in ((1, "train", 7), (0, "validation", 7), (0, "train", 8)):
        image = blocks.render(*other, 2, NUM_ROWS, NUM_ROWS)["image"]
        assert (image != again["image"]).any()


def test_three_objects_by_default_or_a_range_per_split(tmp_path):
    splits = {"train": 6, "validation": 40}
    options = Options(splits=splits, data_dir=tmp_path)
    store = Store.open(prepare.prepare("blocks", options))
    assert store.fields.keys() == tetrominoes.fields(3).keys()
    assert set(store.read("train", "num_objects", range(6))) == {3}
    options = Options(
        splits=splits,
        objects={"train": (3, 3), "validation": (4, 5)},
        data_dir=tmp_path,
    )
    store = Store.open(prepare.prepare("blocks", options, name="more"))
    assert set(store.read("train", "num_objects", range(6))) == {3}
    assert set(store.read("validation", "num_objects", range(40))) == {4, 5}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"image_size": 64}, "--image_size=64: blocks has a fixed size; choose 35"),
        ({"max_objects": 6}, "--max_objects=6: not an ascending range in 1 to 5"),
        ({"objects": {"train": (3, 6)}, "splits": {"train": 4}}, "train:3-6"),
        ({"seed": -1}, "--seed=-1"),
        ({"splits": {"extra": 4}}, "--splits=extra"),
        ({"background": "red"}, "--background: not used by --dataset=blocks"),
    ],
)
def test_options_out_of_range_are_rejected(options, message, tmp_path):
    with pytest.raises(UserError, match=message):
        prepare.prepare("blocks", Options(data_dir=tmp_path, **options))
    assert not (tmp_path / "blocks").exists()
