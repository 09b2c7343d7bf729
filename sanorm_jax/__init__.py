"""Slot Attention and its attention normalizations in JAX and Flax.

These names are imported on first use, so `import sanorm_jax` is fast:

    SlotAttention        Flax module, with the option `update_normalization`
    load                 function that loads a trained run, such as to segment images
    Store                reader of a store of images or features

`sanorm_jax.metrics.segmentation` computes FG-ARI, ARI, mBO and mIoU of label maps.
"""

import importlib

__version__ = "0.3.0"

_NAMES = {
    "SlotAttention": ("sanorm_jax.models.slot_attention", "SlotAttention"),
    "load": ("sanorm_jax.trained", "open_run"),
    "Store": ("sanorm_jax.data.store", "Store"),
}
__all__ = ["SlotAttention", "Store", "load"]


def __getattr__(name: str):
    if name not in _NAMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, attribute = _NAMES[name]
    return getattr(importlib.import_module(module), attribute)
