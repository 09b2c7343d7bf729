"""Extract the model from a training checkpoint of the original implementation.

    python -m feature_extraction.convert_checkpoint step_N.pkl out.safetensors

`--config.init_from=out.safetensors` reads the result. No code in the checkpoint is run:
it is read with `weights_only=True`, and the state of NumPy's generator is ignored.
"""

import functools
import pathlib
from collections.abc import Mapping
from typing import Any

import torch

from sanorm_jax.core import commands
from sanorm_jax.core.errors import UserError

from . import weights

# Keys of the model in checkpoints of DINOSAUR, property prediction, object discovery.
_MODEL_NAMES = ("model", "set_predictor", "auto_encoder")
# Prefix of DINOSAUR's frozen ViT, and a prefix that only a ViT has, because the
# `encoder` of the autoencoder is a CNN.
_VIT, _VIT_MARK = "encoder.", "encoder.patch_embed."


class _Ignored:
    """Placeholder for an object that is not needed."""

    def __init__(self, *args):
        pass

    def __setstate__(self, state):
        pass


# Types in a pickled `numpy.random.RandomState` of NumPy 1 and 2.
_IGNORED_NAMES = (
    "numpy.random._pickle.__randomstate_ctor",
    "numpy.random._pickle.__bit_generator_ctor",
    "numpy.random._mt19937.MT19937",
    "numpy.core.multiarray._reconstruct",
    "numpy._core.multiarray._reconstruct",
    "numpy.ndarray",
    "numpy.dtype",
    "_codecs.encode",
)


def read(path: pathlib.Path) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """Return the model's tensors in a checkpoint and its metadata.

    Args:
      path: File from `torch.save`, or safetensors file.

    Returns:
      Contiguous tensors by name, floats as float32, without a frozen ViT and without
      the prefixes of wrappers. The metadata contain the `step` if the file has one.

    Raises:
      UserError: The file is unreadable, has no model, or needs unpickling.
    """
    ignored = [(_Ignored, name) for name in _IGNORED_NAMES]
    with torch.serialization.safe_globals(ignored):
        content = weights.load(path)
    metadata = _metadata(content)
    if isinstance(content, Mapping):
        models = (content.get(name) for name in _MODEL_NAMES)
        content = next((m for m in models if isinstance(m, Mapping)), content)
    state = weights.find_state(path, content)
    if any(name.startswith(_VIT_MARK) for name in state):
        state = {n: x for n, x in state.items() if not n.startswith(_VIT)}
    if not state:
        raise UserError(f"{path}: contains only a ViT; choose a checkpoint of a model")
    return {
        # Cloned, because safetensors rejects tensors that share memory.
        name: (x.float() if x.is_floating_point() else x).clone().contiguous()
        for name, x in state.items()
    }, metadata


def _metadata(content: Any) -> dict[str, str]:
    step = content.get("step") if isinstance(content, Mapping) else None
    if isinstance(step, torch.Tensor) and step.numel() == 1:
        step = step.item()
    return {"step": str(int(step))} if isinstance(step, int | float) else {}


convert = functools.partial(weights.convert, read=read)

if __name__ == "__main__":
    commands.main(convert, arguments=("step_N.pkl", "out.safetensors"))
