"""What the file of CLEVR with masks is, and what reading it takes."""

import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf

from sanorm_jax.core.errors import UserError
from sanorm_jax.data import prepare
from sanorm_jax.data.sources import clevr_with_masks
from sanorm_jax.data.sources.base import Options, SourceError
from tests.data import fixtures


def test_the_files_are_those_that_the_published_reader_reads(scenes):
    # `clevr_with_masks.py` of multi_object_datasets parses features of these shapes.
    shapes = {"image": [240, 320, 3], "mask": [11, 240, 320, 1], "size": [11]}
    spec = {name: tf.io.FixedLenFeature(s, tf.string) for name, s in shapes.items()}
    path, values = scenes
    records = tf.data.TFRecordDataset(str(path), compression_type="GZIP")
    parsed = tf.io.parse_single_example(next(iter(records)), spec)
    for name in spec:
        decoded = tf.io.decode_raw(parsed[name], tf.uint8)[..., 0]
        np.testing.assert_array_equal(decoded, values[0][name])


@pytest.mark.parametrize("size", [64, 192])
def test_resizing_samples_the_recorded_pixels(size):
    scene = fixtures.clevr_scene(np.random.default_rng(3), 10)
    values = scene | {"mask": scene["mask"][..., 0]}
    example = clevr_with_masks.convert(values, size)
    for i in range(0, size, 5):
        for j in range(0, size, 7):
            y, x = 24 + i * 192 // size, 64 + j * 192 // size
            np.testing.assert_array_equal(example["image"][i, j], scene["image"][y, x])
            (entity,) = np.flatnonzero(scene["mask"][:, y, x, 0])
            assert example["segmentation"][i, j] == entity
    expected = (scene["pixel_coords"][1:, :2] - [64, 24]) * size / 192
    np.testing.assert_allclose(example["pixel_coords"][:, :2], expected, rtol=1e-5)


def test_options_out_of_range_are_rejected(scenes, tmp_path):
    path, _ = scenes
    for image_size, source, message in (
        (200, path, "--image_size=200: out of range; choose 16 to 192"),
        (8, path, "--image_size=8"),
        (64, tmp_path / "absent", "absent: not found; pass"),
    ):
        options = Options(source=source, image_size=image_size, data_dir=tmp_path)
        with pytest.raises(UserError, match=message):
            prepare.prepare("clevr_with_masks", options)
    empty = tmp_path / "empty.tfrecords"
    fixtures.write_records(empty, [])
    with pytest.raises(SourceError, match="has 0 records"):
        prepare.prepare("clevr_with_masks", Options(source=empty, data_dir=tmp_path))
    assert not (tmp_path / "clevr_with_masks").exists()


# Prints the resident memory in MiB after each example, in a process of its own: what
# other tests have allocated or freed does not count.
_MEASURE_MEMORY = """
import pathlib, sys
import psutil
from sanorm_jax.data.sources import clevr_with_masks
from sanorm_jax.data.sources.base import Options

path = pathlib.Path(sys.argv[1])
options = Options(source=path, splits={"train": 96}, data_dir=path.parent)
for _ in clevr_with_masks.build(options).examples("train", 0):
    print(psutil.Process().memory_info().rss / 2**20)
"""


def test_memory_does_not_grow_with_the_number_of_scenes(tmp_path):
    scene = fixtures.clevr_scene(np.random.default_rng(0), 6)
    scene["image"][:] = 100  # noise would only make gzip slow
    path = tmp_path / "many.tfrecords"
    fixtures.write_scenes(path, [scene], repeats=96)
    command = [sys.executable, "-c", _MEASURE_MEMORY, str(path)]
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    resident = [float(line) for line in printed.split()]
    assert len(resident) == 96
    # The 80 scenes after the first 16 are 258 MiB of records.
    assert max(resident[16:]) - resident[16] < 100
