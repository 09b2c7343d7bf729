"""Encoder without weights, for tests: color statistics of each patch.

It is fast and does not need PyTorch. Its features do not represent objects, so slots
segment the image by color.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from sanorm_jax.core.errors import UserError
from sanorm_jax.data.store import Store

from .options import Options

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
      source: Store of the images.
      options: Options of the encoder.
      like: Settings of another encoder, with the mean and deviation to use; those of
        the first training images if None.

    Raises:
      UserError: The patches do not tile the image, or there are no training images.
    """

    def __init__(
        self, source: Store, options: Options, like: Mapping[str, Any] | None = None
    ):
        (height, width, _), _ = source.fields["image"]
        P = options.patch_size
        if height % P or width % P:
            raise UserError(
                f"--patch_size={P}: does not divide the images; choose a divisor of "
                f"{height} x {width} pixels"
            )
        self.num_tokens = (height // P) * (width // P)
        self.feature_dim = FEATURE_DIM
        # Bounds the memory.
        self._patch_size, self._batch_size = P, options.batch_size or 64
        like = like or self._reference(source)
        self._mean = np.array(like["mean"])
        self._deviation = np.array(like["deviation"])
        self.settings: dict[str, Any] = {
            "encoder": "patches",
            "patch_size": P,
            "statistics": "mean and standard deviation of colours, standardised",
            **{k: like[k] for k in ("reference_images", "mean", "deviation")},
        }

    def _reference(self, source: Store) -> dict[str, Any]:
        if "train" not in source.splits:
            raise UserError(
                f"--encoder=patches: standardized over train, which {source.root} "
                "lacks; pass --like=WORKDIR of a run"
            )
        count = min(NUM_REFERENCE_IMAGES, source.num_examples("train"))
        images = source.read("train", "image", np.arange(count))
        # [tokens, 6]
        values = self._statistics(images).reshape(-1, FEATURE_DIM)
        # Rounded, so that rounding errors do not change the fingerprint of the store.
        return {
            "reference_images": f"the first {count} of train",
            "mean": np.round(values.mean(0), 4).tolist(),
            "deviation": np.round(values.std(0) + 1e-4, 4).tolist(),
        }

    def _statistics(self, images: np.ndarray) -> np.ndarray:
        starts = range(0, len(images), self._batch_size)
        parts = [images[i : i + self._batch_size] for i in starts]
        return np.concatenate([statistics(part, self._patch_size) for part in parts])

    def __call__(self, images: np.ndarray) -> np.ndarray:
        """Return float16 features `[B, N, 6]` of uint8 images `[B, H, W, 3]`."""
        values = self._statistics(images)
        return ((values - self._mean) / self._deviation).astype(np.float16)
