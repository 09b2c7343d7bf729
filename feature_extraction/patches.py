"""Encoder without weights, for tests: color statistics of each patch.

It is fast and does not need PyTorch. Its features do not represent objects, so slots
segment the image by color.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from sanorm_jax.core.errors import UserError

# Number of images for standardization, from the start of the training split, so that
# all jobs of an array compute the same statistics.
NUM_REFERENCE_IMAGES = 1024
FEATURE_DIM = 6


def statistics(images: np.ndarray, patch_size: int) -> np.ndarray:
    """Return the mean and standard deviation of each patch's colors.

    Args:
      images: Images `[B, H, W, 3]`, uint8.
      patch_size: Side P of a patch in pixels, a divisor of H and W.

    Returns:
      Statistics `[B, H/P * W/P, 6]`, float64, in units of the full range 255.
    """
    P, (B, H, W, _) = patch_size, images.shape
    # [B, N, P * P, 3]
    pixels = images.reshape(B, H // P, P, W // P, P, 3).swapaxes(2, 3)
    pixels = pixels.reshape(B, -1, P * P, 3) / 255
    return np.concatenate([pixels.mean(2), pixels.std(2)], -1)


class PatchEncoder:
    """Standardized colors of patches `[B, N, 6]`, in row-major order.

    Args:
      image_size: Height and width of the images in pixels.
      patch_size: Side of a patch in pixels, a divisor of both.
      read_reference: Function that returns the first n training images.
      batch_size: Number of images per batch, which bounds the memory.
      like: Settings of another encoder, with the mean and deviation to use; those of
        the reference images if None.

    Raises:
      UserError: The patches do not tile the image.
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
            raise UserError(
                f"--patch_size={patch_size}: does not divide the images; choose a "
                f"divisor of {height} x {width} pixels"
            )
        self.num_tokens = (height // patch_size) * (width // patch_size)
        self.feature_dim = FEATURE_DIM
        self._patch_size, self._batch_size = patch_size, batch_size
        like = like or self._reference(read_reference(NUM_REFERENCE_IMAGES))
        self._mean = np.array(like["mean"])
        self._deviation = np.array(like["deviation"])
        self.settings: dict[str, Any] = {
            "encoder": "patches",
            "patch_size": patch_size,
            "statistics": "mean and standard deviation of colours, standardised",
            **{k: like[k] for k in ("reference_images", "mean", "deviation")},
        }

    def _reference(self, images: np.ndarray) -> dict[str, Any]:
        # [tokens, 6]
        values = np.concatenate(list(self._statistics(images))).reshape(-1, FEATURE_DIM)
        # Rounded, so that rounding errors do not change the fingerprint of the store.
        return {
            "reference_images": f"the first {len(images)} of train",
            "mean": np.round(values.mean(0), 4).tolist(),
            "deviation": np.round(values.std(0) + 1e-4, 4).tolist(),
        }

    def _statistics(self, images: np.ndarray) -> Iterator[np.ndarray]:
        for i in range(0, len(images), self._batch_size):
            yield statistics(images[i : i + self._batch_size], self._patch_size)

    def __call__(self, images: np.ndarray) -> np.ndarray:
        """Return float16 features `[B, N, 6]` of uint8 images `[B, H, W, 3]`."""
        values = np.concatenate(list(self._statistics(images)))
        return ((values - self._mean) / self._deviation).astype(np.float16)
