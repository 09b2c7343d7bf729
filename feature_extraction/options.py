"""Options of encoders, the flags of `feature_extraction.extract`."""

import dataclasses
import pathlib
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from sanorm_jax.core.errors import UserError

PROJECTION = ("components", "whitening", "projection_images")
# Options recorded in an encoder's settings, with their names there.
RECORDED = {
    **{name: name for name in ("patch_size", "layer", "final_norm", "input_size")},
    "dtype": "compute_dtype",
}
_COMMON = {"batch_size", *PROJECTION}
_POSITIVE = ("patch_size", "input_size", "batch_size", "components")


@dataclasses.dataclass(frozen=True)
class Options:
    """Options of an encoder and of the projection of its features."""

    batch_size: Annotated[int | None, "Images per batch; 64 (GPU) or 8 (CPU)."] = None
    components: Annotated[int | None, "Principal components to store."] = None
    whitening: Annotated[float, "Components: 0 keeps variances, 1 equalizes."] = 0.5
    projection_images: Annotated[int, "Number of images to fit components to."] = 500
    patch_size: Annotated[int, "patches: side of a patch in pixels."] = 8
    weights: Annotated[
        pathlib.Path | None, "ViT: weights, torch or safetensors; timm's if unset."
    ] = None
    layer: Annotated[int | None, "ViT: block, from 0; the last if unset."] = None
    final_norm: Annotated[bool, "ViT: apply the last norm, or --no-final-norm."] = True
    input_size: Annotated[int | None, "ViT: input size; its own if unset."] = None
    dtype: Annotated[
        Literal["auto", "float32", "float16", "bfloat16"],
        "ViT: compute dtype. auto: that of an existing store; otherwise bfloat16 if "
        "the device has instructions for it, else float32.",
    ] = "auto"
    device: Annotated[str | None, "ViT: cuda or cpu; cuda if available."] = None

    def like(self, settings: Mapping[str, Any]) -> "Options":
        """Return these options with the values that an encoder's settings record."""
        recorded = {k: settings[v] for k, v in RECORDED.items() if v in settings}
        return dataclasses.replace(self, **recorded)

    def check(self, encoder: str):
        """Raise `UserError` for values that are invalid or that the encoder ignores."""
        for name in (*_POSITIVE, "projection_images"):
            value = getattr(self, name)
            if value is not None and value <= 0:
                raise UserError(f"--{name}={value}: not positive; choose at least 1")
        if not 0 <= self.whitening <= 1:
            raise UserError(f"--whitening={self.whitening}: out of range; use 0 to 1")
        for field in dataclasses.fields(self):
            name, value = field.name, getattr(self, field.name)
            if value == field.default:
                continue
            if name in PROJECTION and self.components is None:
                raise UserError(
                    f"--{name}={value}: needs --components; add that, or remove this"
                )
            is_for_patches = name == "patch_size"
            if name not in _COMMON and is_for_patches != (encoder == "patches"):
                raise UserError(
                    f"--{name}={value}: not used by --encoder={encoder}; remove it"
                )
