"""Slot Attention and its attention normalizations in JAX and Flax.

What is below is imported when it is first used, so `import sanorm_jax` costs nothing:

    SlotAttention        the module, with `update_normalization`
    load                 a trained run, to segment images with
    Store                a store of images or features, to read

`sanorm_jax.metrics.segmentation` has FG-ARI, ARI, mBO and mIoU of label maps.
"""

import importlib
import pathlib

__version__ = "0.3.0"

_NAMES = {
    "SlotAttention": ("sanorm_jax.models.slot_attention", "SlotAttention"),
    "load": ("sanorm_jax.trained", "open_run"),
    "Store": ("sanorm_jax.data.store", "Store"),
}
__all__ = ["SlotAttention", "Store", "load"]

# In a checkout `data`, `configs` and `feature_extraction` lie beside this folder; an
# installed package has them within. Both ways they are `sanorm_jax.data` and so on.
_CHECKOUT = pathlib.Path(__file__).parent.parent
if (_CHECKOUT / "data/store.py").exists() and (_CHECKOUT / "pyproject.toml").exists():
    __path__.append(str(_CHECKOUT))


def __getattr__(name: str):
    if name not in _NAMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, attribute = _NAMES[name]
    return getattr(importlib.import_module(module), attribute)
