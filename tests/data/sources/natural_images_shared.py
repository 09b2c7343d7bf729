"""What the tests of COCO and VOC share: preparing, damaging, and the expected store."""

import itertools

import numpy as np
from PIL import Image

from sanorm_jax.data.prepare import prepare
from sanorm_jax.data.sources.base import Options

SIZE = 32


def write_store(dataset, path, data_dir, **options):
    options = {"image_size": SIZE} | options
    return prepare(dataset, Options(source=path, data_dir=data_dir, **options))


def _expected(labels, category, size=SIZE):
    """Return the middle square at `size`, with what is left numbered anew."""
    height, width = labels.shape
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    result = np.zeros((size, size), int)
    for y, x in itertools.product(range(size), repeat=2):
        row, column = (int((i + 0.5) * side / size) for i in (y, x))
        result[y, x] = labels[top + row, left + column]
    kept = [i for i in range(len(category)) if (result == i + 1).any()]
    numbered = np.where(result < 0, -1, 0)
    for number, i in enumerate(kept, 1):
        numbered[result == i + 1] = number
    return numbered, [category[i] for i in kept]


def check(store, split, labels, categories, images):
    columns = {field: store.column(split, field) for field in store.fields}
    assert len(columns["image"]) == len(labels)
    for row, expected in enumerate(labels):
        found, category = _expected(expected, categories[row])
        np.testing.assert_array_equal(columns["segmentation"][row], found)
        n = len(category)
        assert columns["num_objects"][row] == n
        assert columns["category"][row, :n].tolist() == category
        assert (columns["category"][row, n:] == -1).all()
        assert columns["visibility"][row].sum() == n
        pixels = images[row]
        side = min(pixels.shape[:2])
        top, left = ((length - side) // 2 for length in pixels.shape[:2])
        middle = Image.fromarray(pixels[top : top + side, left : left + side])
        wanted = middle.resize((SIZE, SIZE), Image.Resampling.BILINEAR)
        # JPEG keeps smooth colors within a few steps.
        difference = np.abs(columns["image"][row].astype(int) - np.asarray(wanted))
        assert difference.mean() < 4


def truncate(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
