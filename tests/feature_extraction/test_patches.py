import colorsys
import subprocess
import sys

import numpy as np
import pytest

from data.store import StoreError
from feature_extraction import patches

RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (5, 24, 16, 3), np.uint8)


def _encoder(images=IMAGES, patch_size=8, **options):
    return patches.PatchEncoder(
        images.shape[1:3], patch_size, lambda n: images[:n], **options
    )


def _around(x, i, j):
    part = x[max(i - 1, 0) : i + 2, max(j - 1, 0) : j + 2]
    return part.reshape(-1, x.shape[-1]).mean(0)


def test_statistics_are_those_of_each_patch():
    found = patches.statistics(IMAGES, 8)
    assert found.shape == (5, 3, 2, patches.NUM_STATISTICS)
    pixels = IMAGES.reshape(5, 3, 8, 2, 8, 3).swapaxes(2, 3) / 255
    histogram = patches.color_histogram(IMAGES, 8)
    for b in range(5):
        mean = pixels[b].mean((2, 3))
        luminance = (mean @ [0.299, 0.587, 0.114])[..., None]
        chroma = (mean - luminance) / (luminance + 0.05)
        near = np.array([[_around(mean, i, j) for j in range(2)] for i in range(3)])
        for i, j in np.ndindex(3, 2):
            wanted = [
                *mean[i, j],
                *pixels[b, i, j].reshape(-1, 3).std(0),
                *near[i, j],
                *chroma[i, j],
                *_around(chroma, i, j),
                *_around(near, i, j),
                *(mean - near)[i, j],
                *np.sqrt(histogram[b, i, j]),
            ]
            np.testing.assert_allclose(found[b, i, j], wanted, rtol=1e-5, atol=1e-6)


def test_the_histogram_shares_each_pixel_between_neighbouring_hues():
    """Against `colorsys`, pixel by pixel."""
    found = patches.color_histogram(IMAGES, 8)
    for b, i, j in ((0, 0, 0), (3, 2, 1)):
        wanted = np.zeros(11)
        for pixel in (
            IMAGES[b, 8 * i : 8 * i + 8, 8 * j : 8 * j + 8].reshape(-1, 3) / 255
        ):
            place = 8 * colorsys.rgb_to_hsv(*pixel)[0]
            full = min(np.ptp(pixel) / (pixel.max() + 0.05) * 1.5, 1)
            low = int(place)
            wanted[low % 8] += full * (1 - place + low) / 64
            wanted[(low + 1) % 8] += full * (place - low) / 64
            away = np.abs(pixel @ [0.299, 0.587, 0.114] - np.array([0.15, 0.45, 0.75]))
            wanted[8:] += (1 - full) * np.maximum(1 - away / 0.3, 0) / 64
        np.testing.assert_allclose(found[b, i, j], wanted, atol=1e-4)


def test_positions_tell_every_patch_apart():
    found = patches.positions(3, 5)
    assert found.shape == (3, 5, 4)
    flat = found.reshape(-1, 4)
    np.testing.assert_allclose(flat.mean(0), 0, atol=1e-12)
    np.testing.assert_allclose(flat.std(0), patches.POSITION_SCALE)
    distance = np.linalg.norm(flat[:, None] - flat[None], axis=-1)
    assert (distance + np.eye(15) * 9 > 0.5).all()
    # Rows in the first two, columns in the last two.
    np.testing.assert_array_equal(found[:, 0, :2], found[:, 4, :2])
    np.testing.assert_array_equal(found[0, :, 2:], found[2, :, 2:])


def test_features_end_with_the_positions():
    features = _encoder()(IMAGES).reshape(5, 3, 2, patches.FEATURE_DIM)
    wanted = patches.positions(3, 2).astype(np.float16)
    for one in features:
        np.testing.assert_array_equal(one[..., patches.NUM_STATISTICS :], wanted)


def test_black_images_have_finite_features():
    black = np.zeros((2, 8, 8, 3), np.uint8)
    assert np.isfinite(_encoder(black)(black)).all()


def test_features_are_standardised_over_the_reference_images():
    images = RNG.integers(100, 140, (64, 16, 16, 3), np.uint8)
    features = _encoder(images)(images).astype(np.float64)
    assert features.dtype == np.float64
    flat = features[..., : patches.NUM_STATISTICS].reshape(-1, patches.NUM_STATISTICS)
    np.testing.assert_allclose(flat.mean(0), 0, atol=0.05)
    np.testing.assert_allclose(flat.std(0), 1, atol=0.15)
    assert np.abs(flat).max() <= patches.CLIP


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


def test_standardised_like_another_encoder():
    other = _encoder(RNG.integers(100, 140, (9, 24, 16, 3), np.uint8))
    same = patches.PatchEncoder((24, 16), 8, None, like=other.settings)
    assert same.settings == other.settings
    np.testing.assert_array_equal(same(IMAGES), other(IMAGES))


@pytest.mark.parametrize("patch_size", [5, 16, 48])
def test_patches_that_do_not_fill_the_image_are_refused(patch_size):
    with pytest.raises(StoreError, match=f"--patch_size={patch_size}.*24 x 16"):
        _encoder(patch_size=patch_size)


def test_patches_need_neither_torch_nor_tensorflow():
    code = (
        "import sys; import feature_extraction.extract, feature_extraction.patches; "
        "sys.exit(any(m in sys.modules for m in ('torch', 'tensorflow', 'jax')))"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
