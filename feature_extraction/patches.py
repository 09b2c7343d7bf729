"""An encoder without weights: statistics of each patch of an image and around it.

Like the tokens of a ViT these tell of a patch's look, of what surrounds it, and of
where it lies: without the last, a decoder that reconstructs them has nothing to place
objects by, and slots do not bind to them.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from data.store import StoreError

# Statistics are standardised over the first so many images of the training split:
# every job of an array finds the same numbers by itself.
NUM_REFERENCE_IMAGES = 1024
NUM_HUES = 8
GREYS = (0.15, 0.45, 0.75)  # luminances of the histogram's bins
NUM_STATISTICS = 21 + NUM_HUES + len(GREYS)
FEATURE_DIM = NUM_STATISTICS + 4
# In standard deviations: else the few patches of a highlight would rule the loss.
CLIP = 2.5
# Of the four position features, in standard deviations of the others.
POSITION_SCALE = 1.5
_LUMINANCE = np.array([0.299, 0.587, 0.114], np.float32)
# Chroma and saturation of black patches stay finite.
_DARK = 0.05
# Saturation at which a colour counts as no grey at all.
_SATURATED = 2 / 3


def statistics(images: np.ndarray, patch_size: int) -> np.ndarray:
    """Returns the raw statistics of all patches.

    Args:
      images: uint8 [B, H, W, 3].
      patch_size: side P of a patch in pixels; divides H and W.

    Returns:
      float64 [B, H/P, W/P, 32], S(x) being the mean of x over the 3x3 patches around,
      of those inside the image:
      mean colour m in [0, 1] (3); standard deviation of the pixels' colours (3); S(m)
      (3); chroma c, m minus its luminance, over luminance + 0.05 (3); S(c) (3);
      S(S(m)) (3); m - S(m) (3); square roots of `color_histogram` (11).
    """
    # Sums of whole numbers, exact: the same features on every machine.
    pixels = images.astype(np.float32)
    # [B, h, w, 3]
    mean = _patch_sums(pixels, patch_size) / (255 * patch_size**2)
    square = _patch_sums(pixels * pixels, patch_size) / (255 * patch_size) ** 2
    deviation = np.sqrt(np.maximum(square - mean * mean, 0))
    luminance = (mean @ _LUMINANCE.astype(np.float64))[..., None]
    chroma = (mean - luminance) / (luminance + _DARK)
    around = _surroundings(mean)
    parts = [
        *(mean, deviation, around, chroma),
        *(_surroundings(chroma), _surroundings(around), mean - around),
        np.sqrt(color_histogram(images, patch_size)),
    ]
    return np.concatenate(parts, -1)


def color_histogram(images: np.ndarray, patch_size: int) -> np.ndarray:
    """Returns how the pixels of each patch spread over hues and greys.

    Args:
      images: uint8 [B, H, W, 3].
      patch_size: side P of a patch in pixels; divides H and W.

    Returns:
      float64 [B, H/P, W/P, 11]: 8 hues from red on, shared linearly between neighbours
      and weighted by the saturation; 3 greys by luminance, weighted by the rest.
    """
    pixels = images.astype(np.float32) / 255
    # [B, H, W]
    r, g, b = np.moveaxis(pixels, -1, 0)
    top = pixels.max(-1)
    spread = top - pixels.min(-1)
    safe = spread + 1e-6
    hue = np.where(
        top == r,
        (g - b) / safe % 6,
        np.where(top == g, (b - r) / safe + 2, (r - g) / safe + 4),
    )
    saturation = np.clip(spread / (top + _DARK) / _SATURATED, 0, 1)
    place, luminance = hue * (NUM_HUES / 6), pixels @ _LUMINANCE
    bins = []
    for i in range(NUM_HUES):
        # Around the circle of hues.
        away = np.abs((place - i + NUM_HUES / 2) % NUM_HUES - NUM_HUES / 2)
        bins.append(saturation * np.maximum(1 - away, 0))
    for grey in GREYS:
        away = np.abs(luminance - grey) / (GREYS[1] - GREYS[0])
        bins.append((1 - saturation) * np.maximum(1 - away, 0))
    return _patch_sums(np.stack(bins, -1), patch_size) / patch_size**2


def _patch_sums(x: np.ndarray, size: int) -> np.ndarray:
    B, H, W, C = x.shape
    # Rows first: long contiguous additions.
    rows = x.reshape(B, H // size, size, W * C).sum(2)
    sums = rows.reshape(B, H // size, W // size, size, C).sum(3)
    return sums.astype(np.float64)


def _surroundings(x: np.ndarray) -> np.ndarray:
    """Returns the mean over each 3x3 neighbourhood of [B, h, w, C], edges cut off."""
    _, h, w, _ = x.shape
    padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    inside = np.pad(np.ones((h, w, 1)), ((1, 1), (1, 1), (0, 0)))
    shifts = [(i, j) for i in range(3) for j in range(3)]
    total = sum(padded[:, i : i + h, j : j + w] for i, j in shifts)
    return total / sum(inside[i : i + h, j : j + w] for i, j in shifts)


def positions(height: int, width: int) -> np.ndarray:
    """Returns the position features of a grid of patches.

    Args:
      height: number h of rows of patches.
      width: number w of columns.

    Returns:
      float64 [h, w, 4]: sine and cosine of the row's and of the column's place, a
      quarter turn from the middle of the image to its edge; mean 0, standard deviation
      `POSITION_SCALE` over the grid.
    """
    waves = []
    for count in (height, width):
        turn = ((np.arange(count) + 0.5) / count - 0.5) * np.pi
        wave = np.stack([np.sin(turn), np.cos(turn)], -1)
        wave -= wave.mean(0)
        # A grid of one row or column has no places to tell.
        waves.append(POSITION_SCALE * wave / np.maximum(wave.std(0), 1e-6))
    rows = np.broadcast_to(waves[0][:, None], (height, width, 2))
    columns = np.broadcast_to(waves[1][None], (height, width, 2))
    return np.concatenate([rows, columns], -1)


class PatchEncoder:
    """Standardised patch statistics [B, N, 36], N patches in row-major order.

    Args:
      image_size: height and width of the images in pixels.
      patch_size: side of a patch; must divide both.
      read_reference: `read_reference(n)` returns the first n training images.
      batch_size: images at once, which bounds the memory.
      like: settings of another encoder whose mean and deviation to take, instead of
        those of the reference images.

    Raises:
      StoreError: the patches do not fill the image.
    """

    def __init__(
        self,
        image_size: Sequence[int],
        patch_size: int,
        read_reference: Callable[[int], np.ndarray],
        batch_size: int = 64,
        like: Mapping[str, Any] | None = None,
    ):
        height, width = image_size
        if height % patch_size or width % patch_size:
            raise StoreError(
                f"--patch_size={patch_size}: must divide the image size, {height} x "
                f"{width} pixels"
            )
        self._positions = positions(height // patch_size, width // patch_size)
        self.num_tokens = (height // patch_size) * (width // patch_size)
        self.feature_dim = FEATURE_DIM
        self._patch_size, self._batch_size = patch_size, batch_size
        like = like or self._reference(read_reference(NUM_REFERENCE_IMAGES))
        self._mean, self._deviation = (
            np.array(like["mean"]),
            np.array(like["deviation"]),
        )
        self.settings: dict[str, Any] = {
            "encoder": "patches",
            "patch_size": patch_size,
            "statistics": "mean colour, standard deviation, mean of 3x3, chroma, "
            "chroma of 3x3, mean of 5x5, difference from 3x3, histogram of 8 hues and "
            f"3 greys; standardised, within {CLIP}; then sine and cosine of row and "
            f"column, times {POSITION_SCALE}",
            **{k: like[k] for k in ("reference_images", "mean", "deviation")},
        }

    def _reference(self, images: np.ndarray) -> dict[str, Any]:
        values = np.concatenate(list(self._statistics(images)))
        values = values.reshape(-1, NUM_STATISTICS)
        # Rounded, so that a last bit of rounding does not make another store.
        return {
            "reference_images": f"the first {len(images)} of train",
            "mean": np.round(values.mean(0), 4).tolist(),
            "deviation": np.round(values.std(0) + 1e-4, 4).tolist(),
        }

    def _statistics(self, images):
        step = self._batch_size
        for i in range(0, len(images), step):
            yield statistics(images[i : i + step], self._patch_size)

    def __call__(self, images: np.ndarray) -> np.ndarray:
        """Returns float16 features [B, N, 36] of uint8 images [B, H, W, 3]."""
        parts = []
        for values in self._statistics(images):
            # [b, h, w, 32]
            values = np.clip((values - self._mean) / self._deviation, -CLIP, CLIP)
            where = np.broadcast_to(self._positions, (*values.shape[:3], 4))
            parts.append(np.concatenate([values, where], -1).astype(np.float16))
        shape = (len(images), self.num_tokens, self.feature_dim)
        return np.concatenate(parts).reshape(shape)
