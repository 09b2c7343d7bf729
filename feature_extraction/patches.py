"""An encoder without weights: mean colour and chroma of each patch of an image."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from data.store import StoreError

# Statistics are standardised over the first so many images of the training split:
# every job of an array finds the same numbers by itself.
NUM_REFERENCE_IMAGES = 1024
FEATURE_DIM = 6
# In standard deviations: else the few patches of a highlight would rule the loss.
CLIP = 2.5
_LUMINANCE = (0.299, 0.587, 0.114)
# Chroma of black patches stays finite.
_DARK = 0.05


def statistics(images: np.ndarray, patch_size: int) -> np.ndarray:
    """Returns the raw statistics of all patches.

    Args:
      images: uint8 [B, H, W, 3].
      patch_size: side P of a patch in pixels; divides H and W.

    Returns:
      float64 [B, H/P, W/P, 6]: mean colour in [0, 1]; chroma, the mean colour minus
      luminance, over luminance + 0.05.
    """
    # Sums of whole numbers, exact: the same features on every machine.
    # [B, h, w, 3]
    mean = _patch_sums(images.astype(np.float32), patch_size) / (255 * patch_size**2)
    luminance = sum(mean[..., i] * part for i, part in enumerate(_LUMINANCE))[..., None]
    chroma = (mean - luminance) / (luminance + _DARK)
    return np.concatenate([mean, chroma], -1)


def _patch_sums(x: np.ndarray, size: int) -> np.ndarray:
    B, H, W, C = x.shape
    # Rows first: long contiguous additions.
    rows = x.reshape(B, H // size, size, W * C).sum(2)
    sums = rows.reshape(B, H // size, W // size, size, C).sum(3)
    return sums.astype(np.float64)


class PatchEncoder:
    """Standardised patch statistics [B, N, 6], N patches in row-major order.

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
            "statistics": f"mean colour, chroma; standardised, within {CLIP}",
            "reference_images": f"the first {len(images)} of train",
            "mean": self._mean.tolist(),
            "deviation": self._deviation.tolist(),
        }

    def _statistics(self, images):
        step = self._batch_size
        for i in range(0, len(images), step):
            yield statistics(images[i : i + step], self._patch_size)

    def __call__(self, images: np.ndarray) -> np.ndarray:
        """Returns float16 features [B, N, 6] of uint8 images [B, H, W, 3]."""
        shape = (self.num_tokens, self.feature_dim)
        parts = [
            np.clip((values - self._mean) / self._deviation, -CLIP, CLIP)
            for values in self._statistics(images)
        ]
        features = np.concatenate(parts).astype(np.float16)
        return features.reshape(len(images), *shape)
