"""Encoders by name: patch colors, and every ViT of timm."""

from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np

from sanorm_jax.core.errors import UserError
from sanorm_jax.data.store import Store

from .options import Options
from .patches import PatchEncoder


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

    `like` are the settings of an encoder of this name, whose image statistics are used.

    Raises:
      UserError: The name is unknown, weights do not fit, or an option is invalid.
    """
    options.check(name)
    if name == "patches":
        return PatchEncoder(source, options, like)
    try:
        from .vit import VitEncoder
    except ModuleNotFoundError as error:
        raise UserError(
            f"--encoder={name}: needs {error.name}; install it with pip install -e "
            "'.[extract]'"
        ) from None
    return VitEncoder(name, options)
