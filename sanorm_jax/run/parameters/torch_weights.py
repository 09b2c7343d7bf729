"""Mapping between the original implementation's PyTorch state and Flax variables.

`to_flax` and `to_torch` are inverse for every model and all of its options. Arrays are
NumPy arrays; PyTorch is not needed.
"""

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import flax.linen as nn
import jax
import numpy as np
from flax import traverse_util

from sanorm_jax.core.errors import UserError
from sanorm_jax.models import autoencoder, normalization
from sanorm_jax.models.autoencoder import Autoencoder
from sanorm_jax.models.dinosaur import Dinosaur
from sanorm_jax.models.set_predictor import ENCODER_STRIDES, SetPredictor
from sanorm_jax.models.slot_attention import SlotAttention

Path = tuple[str, ...]
Transform = Callable[[np.ndarray], np.ndarray]


@dataclasses.dataclass(frozen=True)
class _Entry:
    """A PyTorch tensor and its Flax variable.

    Attributes:
      torch_name: Name in the PyTorch state.
      path: Collection and names of the Flax variable.
      to_flax: Change from PyTorch's layout to Flax's.
      to_torch: Inverse of `to_flax`.
      row: Index in the Flax variable if that stacks several tensors, else None.
    """

    torch_name: str
    path: Path
    to_flax: Transform = np.asarray
    to_torch: Transform = np.asarray
    row: int | None = None


@dataclasses.dataclass(frozen=True)
class _Buffer:
    """A constant that PyTorch stores and Flax computes, from its variables by path."""

    torch_name: str
    value: Callable[[Mapping[Path, np.ndarray]], np.ndarray]


def to_flax(model: nn.Module, tensors: Mapping[str, Any]) -> dict:
    """Return Flax variables from the PyTorch state of the same model.

    The frozen encoder in a DINOSAUR checkpoint (`encoder.*`) is ignored.

    Returns:
      `{"params": ..., "batch_stats": ...}`, the latter only if the model has any.

    Raises:
      UserError: Names are missing or unknown, or a constant differs.
    """
    entries, buffers = _layout(model)
    expected = {item.torch_name for item in [*entries, *buffers]}
    if isinstance(model, Dinosaur):
        tensors = {k: v for k, v in tensors.items() if not k.startswith("encoder.")}
    _check_names("PyTorch weights", set(tensors), expected)

    flat, rows = {}, {}
    for entry in entries:
        value = entry.to_flax(np.asarray(tensors[entry.torch_name]))
        if entry.row is None:
            flat[entry.path] = value
        else:
            rows.setdefault(entry.path, {})[entry.row] = value
    for path, parts in rows.items():
        flat[path] = np.stack([parts[i] for i in range(len(parts))])
    for buffer in buffers:
        stored = np.asarray(tensors[buffer.torch_name])
        value = buffer.value(flat)
        if stored.shape != value.shape or not np.allclose(stored, value, atol=1e-5):
            raise UserError(
                f"PyTorch weights: {buffer.torch_name} does not fit the model's "
                "options; check image size and position embedding"
            )
    return traverse_util.unflatten_dict(flat)


def to_torch(
    model: nn.Module, variables: Mapping[str, Any], buffers: bool = True
) -> dict[str, np.ndarray]:
    """Return the PyTorch state from Flax variables of the same model.

    `params` or `batch_stats` may be missing, and gradients may replace parameters.
    `buffers` are the constants that PyTorch stores.

    Raises:
      UserError: Variables are missing or unknown.
    """
    flat = traverse_util.flatten_dict(jax.tree.map(np.asarray, dict(variables)))
    entries, constants = _layout(model)
    entries = [entry for entry in entries if entry.path[0] in variables]
    _check_names(
        "Flax variables",
        {"/".join(path) for path in flat},
        {"/".join(entry.path) for entry in entries},
    )
    tensors = {}
    for entry in entries:
        value = flat[entry.path]
        value = value if entry.row is None else value[entry.row]
        tensors[entry.torch_name] = np.ascontiguousarray(entry.to_torch(value))
    if buffers:
        tensors |= {buffer.torch_name: buffer.value(flat) for buffer in constants}
    return tensors


def _check_names(what: str, names: set[str], expected: set[str]) -> None:
    missing, unknown = sorted(expected - names), sorted(names - expected)
    if missing or unknown:
        parts = [f"missing {', '.join(missing)}"] if missing else []
        parts += [f"unknown {', '.join(unknown)}"] if unknown else []
        raise UserError(f"{what}: do not fit the model; {', '.join(parts)}")


def _layout(model: nn.Module) -> tuple[list[_Entry], list[_Buffer]]:
    """Return the tensors and the constants of the PyTorch state of `model`."""
    for kind, layout in _LAYOUTS.items():
        if isinstance(model, kind):
            items = list(layout(model))
            entries = [item for item in items if isinstance(item, _Entry)]
            return entries, [item for item in items if isinstance(item, _Buffer)]
    raise UserError(f"{type(model).__name__}: has no counterpart in PyTorch")


def _matrix(torch_name: str, *path: str) -> _Entry:
    """Return the entry of a matrix, `[out, in]` in PyTorch and `[in, out]` in Flax."""
    return _Entry(torch_name, ("params", *path), np.transpose, np.transpose)


def _dense(torch_name: str, *path: str) -> Iterator[_Entry]:
    yield _matrix(f"{torch_name}.weight", *path, "kernel")
    yield _Entry(f"{torch_name}.bias", ("params", *path, "bias"))


def _norm(torch_name: str, *path: str) -> Iterator[_Entry]:
    yield _Entry(f"{torch_name}.weight", ("params", *path, "scale"))
    yield _Entry(f"{torch_name}.bias", ("params", *path, "bias"))


def _mlp(torch_name: str, *path: str) -> Iterator[_Entry]:
    yield from _dense(f"{torch_name}.0", *path, "hidden")
    yield from _dense(f"{torch_name}.2", *path, "out")


def _conv(torch_name: str, *path: str, transposed: bool = False) -> Iterator[_Entry]:
    # Flax: [h, w, in, out]. Conv2d: [out, in, h, w]. ConvTranspose2d: [in, out, h, w],
    # flipped because it convolves where Flax correlates.
    if transposed:
        changes = (
            lambda x: x.transpose(2, 3, 0, 1)[::-1, ::-1],
            lambda x: x[::-1, ::-1].transpose(2, 3, 0, 1),
        )
    else:
        changes = (lambda x: x.transpose(2, 3, 1, 0), lambda x: x.transpose(3, 2, 0, 1))
    yield _Entry(f"{torch_name}.weight", ("params", *path, "kernel"), *changes)
    yield _Entry(f"{torch_name}.bias", ("params", *path, "bias"))


def _scalar(torch_name: str, shape: tuple[int, ...], *path: str) -> Iterator[_Entry]:
    yield _Entry(torch_name, path, lambda x: x.reshape(()), lambda x: x.reshape(shape))


def _gru(model: SlotAttention, torch_name: str, *path: str) -> Iterator[_Entry]:
    path = ("params", *path)
    if model.gru == "tf":
        for name in ("kernel", "recurrent_kernel", "bias"):
            yield _Entry(f"{torch_name}.{name}", (*path, name))
        return

    def swap_gates(x):
        # PyTorch: reset, update, candidate. Here: update, reset, candidate.
        reset, update, candidate = np.split(x, 3)
        return np.concatenate([update, reset, candidate])

    for suffix, name, row in (("ih", "kernel", 0), ("hh", "recurrent_kernel", 1)):
        yield _Entry(
            f"{torch_name}.weight_{suffix}",
            (*path, name),
            lambda x: swap_gates(x).T,
            lambda x: swap_gates(x.T),
        )
        yield _Entry(
            f"{torch_name}.bias_{suffix}", (*path, "bias"), swap_gates, swap_gates, row
        )


def _update_normalization(
    model: SlotAttention, prefix: str, *path: str
) -> Iterator[_Entry]:
    name = normalization.canonical_name(model.update_normalization)
    path = (*path, "update_normalization")
    if name == "layer_norm":
        yield from _norm(f"{prefix}update_ln", *path, "norm")
    elif name == "image_level":
        yield from _scalar(f"{prefix}update_ln.gamma", (1,), "params", *path, "scale")
        yield from _scalar(f"{prefix}update_ln.beta", (1,), "params", *path, "bias")
    elif name == "batch_norm":
        prefix, shape = f"{prefix}update_normalizer", (1, 1, 1, 1)
        yield from _scalar(f"{prefix}.gamma", shape, "params", *path, "scale")
        yield from _scalar(f"{prefix}.beta", shape, "params", *path, "bias")
        yield from _scalar(f"{prefix}.means", (1,), "batch_stats", *path, "mean")
        yield from _scalar(f"{prefix}.variances", (1,), "batch_stats", *path, "var")


def _slot_attention(model, prefix: str = "", *path: str) -> Iterator[_Entry]:
    for name in ("slots_mu", "slots_logsigma"):
        yield _Entry(f"{prefix}{name}", ("params", *path, name))
    for name in ("to_k", "to_q", "to_v"):
        yield _matrix(f"{prefix}{name}.weight", *path, name)
    yield from _gru(model, f"{prefix}gru", *path, "gru")
    yield from _mlp(f"{prefix}mlp", *path, "mlp")
    yield from _norm(f"{prefix}norm_input", *path, "norm_inputs")
    yield from _norm(f"{prefix}norm_slots", *path, "norm_slots")
    yield from _norm(f"{prefix}norm_pre_ff", *path, "norm_mlp")
    yield from _update_normalization(model, prefix, *path)


def _features_and_slots(model) -> Iterator[_Entry]:
    yield from _mlp("feature_mlp", "feature_mlp")
    yield from _slot_attention(
        model.slot_attention, "slot_attention.", "slot_attention"
    )


def _position(embedding, size: int, torch_name: str, name: str) -> Iterator:
    torch_embedding = f"{torch_name}.pos_embedding"
    if embedding.learnable_dim:
        yield _Entry(torch_embedding, ("params", name, "embedding"))
    else:
        yield _Buffer(torch_embedding, lambda _: embedding.fixed_embedding(size, size))
    if not embedding.concat:
        yield from _dense(f"{torch_name}.dense", name, "dense")


def _dinosaur(model: Dinosaur) -> Iterator[_Entry]:
    yield from _norm("feature_layer_norm", "feature_norm")
    yield from _features_and_slots(model)
    yield _Entry(
        "mlp_decoder.decoder_pos_encoding",
        ("params", "decoder", "positions"),
        lambda x: x[0, 0],
        lambda x: x[None, None],
    )
    last = model.decoder_num_hidden_layers
    for i in range(last + 1):
        name = "out" if i == last else f"hidden_{i}"
        torch_name = f"mlp_decoder.mlp_decoder.{2 * i}"
        yield _matrix(f"{torch_name}.weight", "decoder", f"{name}_kernel")
        yield _Entry(f"{torch_name}.bias", ("params", "decoder", f"{name}_bias"))


def _autoencoder(model: Autoencoder) -> Iterator:
    if model.decoder not in autoencoder.DECODERS:
        raise UserError(
            f"decoder={model.decoder!r}: is not in the original implementation; use "
            f"one of {', '.join(autoencoder.DECODERS)}"
        )
    for i in range(autoencoder.NUM_ENCODER_LAYERS):
        yield from _conv(f"encoder_cnn.{2 * i}", f"encoder_{i}")
    for side, size in (
        ("encoder", model.image_size),
        ("decoder", model.initial_size()),
    ):
        embedding = model.embedding(f"{side}_position")
        yield from _position(embedding, size, f"{side}_pos", embedding.name)
    yield from _norm("layer_norm", "feature_norm")
    yield from _features_and_slots(model)
    for i, (_, upsample, _) in enumerate(autoencoder.DECODERS[model.decoder]):
        torch_name, name = f"decoder_cnn.{2 * i}", f"decoder_{i}"
        unpools = upsample and model.decoder == "up_convolve"
        if unpools:
            yield _unpooling(f"{torch_name}.unpool.weights", name)
        yield from _conv(
            f"{torch_name}.conv" if unpools else torch_name,
            name,
            transposed=model.decoder != "up_convolve",
        )


def _unpooling(torch_name: str, name: str) -> _Buffer:
    def value(flat):
        channels = flat["params", name, "kernel"].shape[2]
        weights = np.zeros((channels, 1, 2, 2), np.float32)
        weights[:, :, 0, 0] = 1
        return weights

    return _Buffer(torch_name, value)


def _set_predictor(model: SetPredictor) -> Iterator:
    for i in range(len(ENCODER_STRIDES)):
        yield from _conv(f"cnn_encoder.{2 * i}", f"encoder_{i}")
    embedding = model.embedding("encoder_position")
    yield from _position(embedding, model.image_size // 4, "pos_embed", embedding.name)
    yield from _norm("layer_norm", "feature_norm")
    yield from _features_and_slots(model)
    yield from _mlp("mlp", "head")


_LAYOUTS = {
    SlotAttention: _slot_attention,
    Dinosaur: _dinosaur,
    Autoencoder: _autoencoder,
    SetPredictor: _set_predictor,
}
