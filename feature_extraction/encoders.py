"""The encoders by name: patches without weights, and every ViT of timm."""

import dataclasses
import pathlib
from typing import Any, Protocol

import numpy as np

from data.store import Store


@dataclasses.dataclass(frozen=True)
class Options:
    """What the command line may say of an encoder.

    Attributes:
      patch_size: patches: side in pixels.
      weights: ViT: file of the weights; without one, timm downloads them.
      layer: ViT: block to take, from 0; None for the last.
      final_norm: ViT: apply the last LayerNorm.
      dtype: ViT: compute dtype.
      device: ViT: cuda or cpu; None for cuda if there is any.
      batch_size: images encoded at once.
    """

    patch_size: int = 8
    weights: pathlib.Path | None = None
    layer: int | None = None
    final_norm: bool = True
    dtype: str = "float32"
    device: str | None = None
    batch_size: int = 64


class Encoder(Protocol):
    """Makes features of images.

    Attributes:
      settings: all that defines the features, as JSON; has `encoder`, its name.
      num_tokens: N.
      feature_dim: D.
    """

    settings: dict[str, Any]
    num_tokens: int
    feature_dim: int

    def __call__(self, images: np.ndarray) -> np.ndarray:
        """Returns float16 features [B, N, D] of uint8 images [B, H, W, 3]."""


def create(name: str, source: Store, options: Options) -> Encoder:
    """Returns the encoder of that name for the images of a store.

    Raises:
      StoreError: unknown name, weights that do not fit, an option out of range.
    """
    if name == "patches":
        from feature_extraction.patches import PatchEncoder

        def first_images(count: int) -> np.ndarray:
            count = min(count, source.num_examples("train"))
            return source.read("train", "image", np.arange(count))

        return PatchEncoder(
            source.settings["image_size"], options.patch_size, first_images
        )
    from feature_extraction.vit import VitEncoder

    return VitEncoder(name, options)
