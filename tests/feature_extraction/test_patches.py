import subprocess
import sys

import numpy as np
import pytest

from sanorm_jax.core.errors import UserError
from sanorm_jax.feature_extraction import patches
from sanorm_jax.feature_extraction.options import Options

RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (5, 24, 16, 3), np.uint8)


class _Source:
    """A store of training images."""

    fields = {"image": ((24, 16, 3), "uint8")}  # noqa: RUF012

    def __init__(self, images):
        self._images, self.splits = images, {"train": len(images)}

    def num_examples(self, split):
        return self.splits[split]

    def read(self, split, field, indices):
        return self._images[indices]


def _encoder(reference=IMAGES, **options):
    options = Options(**{"patch_size": 8} | options)
    return patches.PatchEncoder(_Source(reference), options)


def test_statistics_are_those_of_each_patch_in_row_major_order():
    found = patches.statistics(IMAGES, 8)
    assert found.shape == (5, 6, patches.FEATURE_DIM)
    for token in range(6):
        row, column = divmod(token, 2)
        part = IMAGES[:, 8 * row : 8 * row + 8, 8 * column : 8 * column + 8] / 255
        np.testing.assert_allclose(found[:, token, :3], part.mean((1, 2)))
        np.testing.assert_allclose(found[:, token, 3:], part.std((1, 2)))


def test_black_images_have_finite_features():
    black = np.zeros((2, 24, 16, 3), np.uint8)
    assert np.isfinite(_encoder(black)(black)).all()


def test_features_are_standardized_over_the_reference_images():
    features = _encoder()(IMAGES).astype(np.float64).reshape(-1, patches.FEATURE_DIM)
    np.testing.assert_allclose(features.mean(0), 0, atol=0.01)
    np.testing.assert_allclose(features.std(0), 1, atol=0.02)


def test_features_do_not_depend_on_the_batches():
    whole = _encoder(batch_size=64)
    parts = _encoder(batch_size=2)
    assert whole.settings == parts.settings
    np.testing.assert_array_equal(whole(IMAGES), parts(IMAGES))
    np.testing.assert_array_equal(whole(IMAGES)[3:4], whole(IMAGES[3:4]))
    assert whole(IMAGES).dtype == np.float16


def test_only_the_first_reference_images_count(monkeypatch):
    monkeypatch.setattr(patches, "NUM_REFERENCE_IMAGES", 3)
    few = _encoder(IMAGES).settings
    assert few["reference_images"] == "the first 3 of train"
    assert few["mean"] == _encoder(IMAGES[:3]).settings["mean"]


def test_statistics_of_another_encoder_are_used():
    other = _encoder(RNG.integers(100, 140, (9, 24, 16, 3), np.uint8))
    same = patches.PatchEncoder(_Source(IMAGES), Options(), like=other.settings)
    assert same.settings == other.settings
    np.testing.assert_array_equal(same(IMAGES), other(IMAGES))


@pytest.mark.parametrize("patch_size", [5, 16, 48])
def test_patches_must_tile_the_image(patch_size):
    with pytest.raises(UserError, match=f"--patch_size={patch_size}.*24 x 16"):
        _encoder(patch_size=patch_size)


def test_patches_need_neither_torch_nor_tensorflow():
    code = (
        "import sys; import feature_extraction.extract, feature_extraction.patches; "
        "sys.exit(any(m in sys.modules for m in ('torch', 'tensorflow', 'jax')))"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
