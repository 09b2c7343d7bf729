"""What the command line may say of an encoder."""

import dataclasses
import pathlib
from collections.abc import Mapping
from typing import Any

from sanorm_jax.core.errors import UserError

DTYPES = ("auto", "float32", "float16", "bfloat16")
_PATCHES = {"patch_size"}
_ANY = {"batch_size", "components", "whitening", "projection_images"}
# Options whose value the settings of an encoder record, and under which name.
RECORDED = {
    **{name: name for name in ("patch_size", "layer", "final_norm", "input_size")},
    "dtype": "compute_dtype",
}


@dataclasses.dataclass(frozen=True)
class Options:
    """What the command line may say of an encoder.

    Attributes:
      patch_size: patches: side in pixels.
      weights: ViT: file of the weights; without one, timm downloads them.
      layer: ViT: block to take, from 0; None for the last.
      final_norm: ViT: apply the last LayerNorm.
      input_size: ViT: side that images are resized to; None for the model's own.
      dtype: ViT: compute dtype; `auto` is that of the store if it has begun, else
        bfloat16 where the device has instructions for it, else float32.
      device: ViT: cuda or cpu; None for cuda if there is any.
      batch_size: images encoded at once; None for what suits the device.
      components: principal components kept of the features; None for the features.
      whitening: share, 0 to 1, of the differences in variance that is taken from them.
      projection_images: training images that the components are fitted on.
    """

    patch_size: int = 8
    weights: pathlib.Path | None = None
    layer: int | None = None
    final_norm: bool = True
    input_size: int | None = None
    dtype: str = "auto"
    device: str | None = None
    batch_size: int | None = None
    components: int | None = None
    whitening: float = 0.5
    projection_images: int = 500

    def like(self, settings: Mapping[str, Any]) -> "Options":
        """Return these options, with the values that an encoder's settings record."""
        recorded = {k: settings[v] for k, v in RECORDED.items() if v in settings}
        return dataclasses.replace(self, **recorded)

    def check(self, encoder: str):
        """Raise UserError for values that no encoder, or not this one, takes."""
        for name in (
            "patch_size",
            "input_size",
            "batch_size",
            "components",
            "projection_images",
        ):
            value = getattr(self, name)
            if value is not None and value <= 0:
                raise UserError(f"--{name}={value}: must be above 0")
        if not 0 <= self.whitening <= 1:
            raise UserError(f"--whitening={self.whitening}: must be 0 to 1")
        for name in ("whitening", "projection_images"):
            value = getattr(self, name)
            if self.components is None and value != getattr(type(self), name):
                raise UserError(f"--{name}={value}: means nothing without --components")
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            is_ours = (field.name in _PATCHES) == (encoder == "patches")
            if value != field.default and field.name not in _ANY and not is_ours:
                raise UserError(
                    f"--{field.name}={value}: means nothing to --encoder={encoder}"
                )
