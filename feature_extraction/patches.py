"""An encoder without weights: twelve statistics of each patch of an image."""

from collections.abc import Callable
from typing import Any

import numpy as np
from einops import rearrange

from data.store import StoreError

# Statistics are standardised over the first so many images of the training split:
# every job of an array finds the same numbers by itself.
NUM_REFERENCE_IMAGES = 1024
FEATURE_DIM = 12
_LUMINANCE = np.array([0.299, 0.587, 0.114], np.float32)


def statistics(images: np.ndarray, patch_size: int) -> np.ndarray:
    """Returns the raw statistics of all patches.

    Args:
      images: uint8 [B, H, W, 3].
      patch_size: side P of a patch in pixels.

    Returns:
      float32 [B, H/P, W/P, 12]: mean colour; standard deviation of each colour; mean
      colour over the 3x3 neighbouring patches (fewer at the border); chroma, the mean
      colour minus luminance, over luminance.
    """
    # [B, h, w, P P, 3]
    patches = rearrange(
        images.astype(np.float32) / 255,
        "b (h p) (w q) c -> b h w (p q) c",
        p=patch_size,
        q=patch_size,
    )
    mean, deviation = patches.mean(3), patches.std(3)
    luminance = (mean @ _LUMINANCE)[..., None]
    chroma = (mean - luminance) / (luminance + 0.05)
    return np.concatenate([mean, deviation, _neighbourhood(mean), chroma], -1)


def _neighbourhood(mean: np.ndarray) -> np.ndarray:
    _, h, w, _ = mean.shape
    ones = np.ones((1, h, w, 1), np.float32)

    def sums(x):
        x = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
        return sum(x[:, i : i + h, j : j + w] for i in range(3) for j in range(3))

    return sums(mean) / sums(ones)


class PatchEncoder:
    """Standardised patch statistics [B, N, 12], N patches in row-major order.

    Args:
      image_size: side of the images in pixels.
      patch_size: side of a patch; must divide it.
      read_reference: `read_reference(n)` returns the first n training images.

    Raises:
      StoreError: the patches do not fill the image.
    """

    def __init__(
        self,
        image_size: int,
        patch_size: int,
        read_reference: Callable[[int], np.ndarray],
    ):
        if patch_size <= 0 or image_size % patch_size:
            raise StoreError(
                f"--patch_size={patch_size}: must divide the image size {image_size}"
            )
        self.num_tokens = (image_size // patch_size) ** 2
        self.feature_dim = FEATURE_DIM
        self._patch_size = patch_size
        images = read_reference(NUM_REFERENCE_IMAGES)
        values = statistics(images, patch_size).reshape(-1, FEATURE_DIM)
        # Rounded, so that a last bit of rounding does not make another store.
        self._mean = np.round(values.mean(0, dtype=np.float64), 4)
        self._deviation = np.round(values.std(0, dtype=np.float64), 4) + 1e-4
        self.settings: dict[str, Any] = {
            "encoder": "patches",
            "patch_size": patch_size,
            "statistics": "mean, deviation, 3x3 mean, chroma; standardised",
            "reference_images": len(images),
            "mean": self._mean.tolist(),
            "deviation": np.round(self._deviation, 4).tolist(),
        }

    def __call__(self, images: np.ndarray) -> np.ndarray:
        """Returns float16 features [B, N, 12] of uint8 images [B, H, W, 3]."""
        values = statistics(images, self._patch_size)
        values = (values - self._mean) / self._deviation
        return values.reshape(len(images), -1, FEATURE_DIM).astype(np.float16)
