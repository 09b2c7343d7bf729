"""Encoders by name: patch colors, and every ViT of timm."""

from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np

from sanorm_jax.core.errors import UserError
from sanorm_jax.data.store import Store

from .options import Options


class Encoder(Protocol):
    """Frozen encoder of images.

    Attributes:
      settings: JSON settings that define the features, with the name as `encoder`.
      num_tokens: Number of tokens N.
      feature_dim: Width of the features D.
    """

    settings: dict[str, Any]
    num_tokens: int
    feature_dim: int

    def __call__(self, images: np.ndarray) -> np.ndarray:
        """Return float16 features `[B, N, D]` of uint8 images `[B, H, W, 3]`."""


def create(
    name: str, source: Store, options: Options, like: Mapping[str, Any] | None = None
) -> Encoder:
    """Return an encoder for the images of a store.

    Args:
      name: Name of a timm ViT, or `patches`.
      source: Store of the images.
      options: Options of the encoder.
      like: Settings of an encoder with this name, whose image statistics are used.

    Raises:
      UserError: The name is unknown, weights do not fit, or an option is invalid.
    """
    options.check(name)
    if name == "patches":
        from .patches import PatchEncoder

        if like is None and "train" not in source.splits:
            raise UserError(
                f"--encoder=patches: standardized over train, which {source.root} "
                "lacks; pass --like=WORKDIR of a run"
            )

        def first_images(count: int) -> np.ndarray:
            count = min(count, source.num_examples("train"))
            return source.read("train", "image", np.arange(count))

        size = source.fields["image"][0][:2]
        return PatchEncoder(
            size,
            options.patch_size,
            first_images,
            batch_size=options.batch_size or 64,
            like=like,
        )
    try:
        from .vit import VitEncoder
    except ModuleNotFoundError as error:
        raise UserError(
            f"--encoder={name}: needs {error.name}; install it with pip install -e "
            "'.[extract]'"
        ) from None
    return VitEncoder(name, options)
