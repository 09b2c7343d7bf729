"""The encoders by name: patches without weights, and every ViT of timm."""

from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np

from sanorm_jax.core.errors import UserError
from sanorm_jax.data.store import Store

from .options import Options

__all__ = ["Encoder", "Options", "create"]


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
        """Return float16 features [B, N, D] of uint8 images [B, H, W, 3]."""


def create(
    name: str, source: Store, options: Options, like: Mapping[str, Any] | None = None
) -> Encoder:
    """Return the encoder of that name for the images of a store.

    Args:
      name: `patches`, or the name of a timm ViT.
      source: of the images.
      options: of the command line.
      like: settings of another encoder of that name. What it took from the images
        that it was made for, such as their mean, is taken from there.

    Raises:
      UserError: unknown name, weights that do not fit, an option out of range.
    """
    options.check(name)
    if name == "patches":
        from .patches import PatchEncoder

        if like is None and "train" not in source.splits:
            raise UserError(
                f"--encoder=patches: is standardised over train, which {source.root} "
                "does not have; give --like=WORKDIR of a run"
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
            f"--encoder={name}: needs {error.name}; pip install -e .[extract]"
        ) from None
    return VitEncoder(name, options)
