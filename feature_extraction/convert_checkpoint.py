"""Extract the model from a training checkpoint of the original implementation.

    python -m feature_extraction.convert_checkpoint step_N.pkl out.safetensors

The result is read by `--config.init_from=out.safetensors`. Nothing in the checkpoint is
run: it is read with `weights_only=True`, and the numpy generator that the published
code saves beside the weights is passed over.
"""

import pathlib
from collections.abc import Mapping
from typing import Any

import torch
from absl import logging

from sanorm_jax.core.errors import UserError

from . import weights

# Where the published trainers keep the model: DINOSAUR, property prediction, object
# discovery. Other names are those of `weights.find_state`.
_MODEL_NAMES = ("model", "set_predictor", "auto_encoder")
# The frozen ViT within DINOSAUR, told from the CNN that is `encoder` elsewhere.
_VIT, _VIT_MARK = "encoder.", "encoder.patch_embed."


class _Ignored:
    """Stands for an object that is of no use here; takes any state, does nothing."""

    def __init__(self, *args):
        pass

    def __setstate__(self, state):
        pass


# What a numpy.random.RandomState is pickled as, by numpy 1 and 2.
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


def read_model(path: pathlib.Path) -> tuple[dict[str, torch.Tensor], int | None]:
    """Return the tensors of a checkpoint's model by name, and its step.

    Names are without the prefixes of wrappers; a ViT within the model is left out.

    Args:
      path: a file of `torch.save` or safetensors.

    Returns:
      contiguous tensors, floats as float32; the step, None if the file has none.

    Raises:
      UserError: unreadable, no model in it, or it takes unpickling to read.
    """
    ignored = [(_Ignored, name) for name in _IGNORED_NAMES]
    with torch.serialization.safe_globals(ignored):
        content = weights.load(path)
    step = _step(content)
    if isinstance(content, Mapping):
        for name in _MODEL_NAMES:
            if isinstance(content.get(name), Mapping):
                content = content[name]
                break
    state = weights.find_state(path, content)
    if any(name.startswith(_VIT_MARK) for name in state):
        state = {n: x for n, x in state.items() if not n.startswith(_VIT)}
    if not state:
        raise UserError(f"{path}: holds nothing but a ViT")
    return {
        # Cloned: some tensors share memory, which safetensors does not store.
        name: (x.float() if x.is_floating_point() else x).clone().contiguous()
        for name, x in state.items()
    }, step


def _step(content: Any) -> int | None:
    step = content.get("step") if isinstance(content, Mapping) else None
    if isinstance(step, torch.Tensor) and step.numel() == 1:
        step = step.item()
    return int(step) if isinstance(step, int | float) else None


def convert(path: pathlib.Path, target: pathlib.Path) -> int | None:
    """Write the model of a checkpoint to a safetensors file, whole or not at all.

    Metadata: `step`, if known; `source` and `source_sha256` of the checkpoint.

    Returns:
      the step, None if unknown.

    Raises:
      UserError: what `read_model` raises; `target` is there or not writable.
    """
    weights.check_target(target)
    state, step = read_model(path)
    metadata = {"source": path.name, "source_sha256": weights.sha256(path)}
    if step is not None:
        metadata["step"] = str(step)
    weights.save(target, state, metadata)
    logging.info(
        "%s: %d tensors, %d values, step %s",
        target,
        len(state),
        sum(x.numel() for x in state.values()),
        step,
    )
    return step


if __name__ == "__main__":
    weights.run_conversion("step_N.pkl", convert)
