"""An encoder without weights: twelve statistics of each patch of an image."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from data.store import StoreError

# Statistics are standardised over the first so many images of the training split:
# every job of an array finds the same numbers by itself.
NUM_REFERENCE_IMAGES = 1024
FEATURE_DIM = 12
_LUMINANCE = (0.299, 0.587, 0.114)
# Chroma of black patches stays finite.
_DARK = 0.05
# Largest patch of which sums of squared bytes are exact in float32.
_MAX_EXACT_FLOAT32 = 16


def statistics(images: np.ndarray, patch_size: int) -> np.ndarray:
    """Returns the raw statistics of all patches.

    Args:
      images: uint8 [B, H, W, 3].
      patch_size: side P of a patch in pixels; divides H and W.

    Returns:
      float64 [B, H/P, W/P, 12]: mean colour in [0, 1]; standard deviation of each
      colour; mean colour over the 3x3 neighbouring patches (fewer at the border);
      chroma, the mean colour minus luminance, over luminance + 0.05.
    """
    # Sums of whole numbers, exact: the same features on every machine.
    exact = np.float32 if patch_size <= _MAX_EXACT_FLOAT32 else np.float64
    values = images.astype(exact)
    scale = 1 / (255 * patch_size**2)
    # [B, h, w, 3]
    mean = _patch_sums(values, patch_size) * scale
    square = _patch_sums(values * values, patch_size) * (scale / 255)
    deviation = np.sqrt(np.maximum(square - mean * mean, 0))
    luminance = sum(mean[..., i] * part for i, part in enumerate(_LUMINANCE))[..., None]
    chroma = (mean - luminance) / (luminance + _DARK)
    return np.concatenate([mean, deviation, _neighbourhood(mean), chroma], -1)


def _patch_sums(x: np.ndarray, size: int) -> np.ndarray:
    B, H, W, C = x.shape
    # Rows first: long contiguous additions.
    rows = x.reshape(B, H // size, size, W * C).sum(2)
    sums = rows.reshape(B, H // size, W // size, size, C).sum(3)
    return sums.astype(np.float64)


def _neighbourhood(mean: np.ndarray) -> np.ndarray:
    _, h, w, _ = mean.shape

    def sums(x):
        x = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
        return sum(x[:, i : i + h, j : j + w] for i in range(3) for j in range(3))

    return sums(mean) / sums(np.ones((1, h, w, 1)))


class PatchEncoder:
    """Standardised patch statistics [B, N, 12], N patches in row-major order.

    Args:
      image_size: height and width of the images in pixels.
      patch_size: side of a patch; must divide both.
      read_reference: `read_reference(n)` returns the first n training images.
      batch_size: images at once, which bounds the memory.

    Raises:
      StoreError: the patches do not fill the image.
    """

    def __init__(
        self,
        image_size: Sequence[int],
        patch_size: int,
        read_reference: Callable[[int], np.ndarray],
        batch_size: int = 64,
    ):
        height, width = image_size
        if height % patch_size or width % patch_size:
            raise StoreError(
                f"--patch_size={patch_size}: must divide the image size, {height} x "
                f"{width} pixels"
            )
        self.num_tokens = (height // patch_size) * (width // patch_size)
        self.feature_dim = FEATURE_DIM
        self._patch_size, self._batch_size = patch_size, batch_size
        images = read_reference(NUM_REFERENCE_IMAGES)
        values = np.concatenate(list(self._statistics(images))).reshape(-1, FEATURE_DIM)
        # Rounded, so that a last bit of rounding does not make another store.
        self._mean = np.round(values.mean(0), 4)
        self._deviation = np.round(values.std(0) + 1e-4, 4)
        self.settings: dict[str, Any] = {
            "encoder": "patches",
            "patch_size": patch_size,
            "statistics": "mean, deviation, 3x3 mean, chroma; standardised",
            "reference_images": f"the first {len(images)} of train",
            "mean": self._mean.tolist(),
            "deviation": self._deviation.tolist(),
        }

    def _statistics(self, images):
        step = self._batch_size
        for i in range(0, len(images), step):
            yield statistics(images[i : i + step], self._patch_size)

    def __call__(self, images: np.ndarray) -> np.ndarray:
        """Returns float16 features [B, N, 12] of uint8 images [B, H, W, 3]."""
        shape = (self.num_tokens, self.feature_dim)
        parts = [
            ((values - self._mean) / self._deviation).astype(np.float16)
            for values in self._statistics(images)
        ]
        return np.concatenate(parts).reshape(len(images), *shape)
