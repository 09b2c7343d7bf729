"""Extract the ViT from an ONNX export of Hugging Face's Dinov2, for timm.

    python -m feature_extraction.convert_onnx model.onnx out.safetensors

The result is read by `feature_extraction.extract --weights=out.safetensors`. Nothing of
the file is run: only its tensors are read, and the names of what uses them. Heads on
top of the ViT are left out.
"""

import math
import pathlib
import re

import google.protobuf.message
import numpy as np
import onnx
import torch
from absl import logging
from onnx import numpy_helper
from torch.nn import functional

from sanorm_jax.core.errors import UserError

from . import layouts, weights

_PATCHES = "embeddings.patch_embeddings.projection.weight"
_AFFINE = ("weight", "bias")
_KINDS = (onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16)
# The affine maps of a layer; the giant model has gated ones.
_ATTENTION = tuple(f"attention.attention.{part}" for part in ("query", "key", "value"))
_ATTENTION += ("attention.output.dense",)
_MLP = ("mlp.fc1", "mlp.fc2")
_GATED = ("mlp.weights_in", "mlp.weights_out")
_VECTORS = ("layer_scale1.lambda1", "layer_scale2.lambda1")
_VECTORS += tuple(f"{norm}.{part}" for norm in ("norm1", "norm2") for part in _AFFINE)


class _Graph:
    """The tensors of an ONNX file by name, and what uses them.

    Exporters keep the names of biases and vectors. Matrices, transposed, and what else
    they compute beforehand lose theirs; they are found by what they are added to.
    """

    def __init__(self, path: pathlib.Path):
        try:
            model = onnx.load(path, load_external_data=False)
        except OSError as error:
            raise UserError(f"{path}: unreadable ({error.strerror})") from None
        except google.protobuf.message.DecodeError:
            raise UserError(f"{path}: is no ONNX file, or damaged") from None
        self.path = path
        self._tensors = {t.name: t for t in model.graph.initializer}
        for node in model.graph.node:
            for attribute in node.attribute:
                if node.op_type == "Constant" and attribute.name == "value":
                    self._tensors[node.output[0]] = attribute.t
        self._makers = {o: node for node in model.graph.node for o in node.output}
        self._users: dict[str, list[onnx.NodeProto]] = {}
        for node in model.graph.node:
            for name in node.input:
                self._users.setdefault(name, []).append(node)
        self.names = [t.name for t in model.graph.initializer]
        given = [i for i in model.graph.input if i.name not in self._tensors]
        sides = given[0].type.tensor_type.shape.dim[2:4] if given else ()
        # [height, width] of the image, 0 where it is free.
        self.image_size = [side.dim_value for side in sides]

    def __contains__(self, name: str) -> bool:
        return name in self._tensors

    def tensor(self, name: str) -> np.ndarray:
        """Return a tensor as float32."""
        if name not in self._tensors:
            raise UserError(
                f"{self.path}: has no {name}, which Hugging Face's Dinov2 has"
            )
        tensor = self._tensors[name]
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            raise UserError(
                f"{self.path}: keeps {name} in another file; export it as one file"
            )
        if tensor.data_type not in _KINDS:
            kind = onnx.TensorProto.DataType.Name(tensor.data_type)
            raise UserError(
                f"{self.path}: {name} is {kind}; quantised exports cannot be read"
            )
        try:
            value = numpy_helper.to_array(tensor)
        except ValueError as error:
            raise UserError(
                f"{self.path}: {name} is damaged ({str(error)[:100]})"
            ) from None
        return np.ascontiguousarray(value, np.float32)

    def matrix(self, name: str) -> np.ndarray:
        """Return the [out, in] matrix of the affine map whose bias is known."""
        if f"{name}.weight" in self:
            return self.tensor(f"{name}.weight")
        for user in self._users.get(f"{name}.bias", ()):
            if user.op_type == "Gemm":
                transposed = any(a.name == "transB" and a.i for a in user.attribute)
                found = self.tensor(user.input[1])
                return found if transposed else found.T
            for given in user.input:
                maker = self._makers.get(given)
                if maker is not None and maker.op_type == "MatMul":
                    found = [i for i in maker.input if i in self]
                    if len(found) == 1:
                        return self.tensor(found[0]).T
        raise UserError(
            f"{self.path}: finds no matrix that belongs to {name}.bias; export the "
            "model without further optimization"
        )

    def added(self, bias: str, width: int) -> list[np.ndarray]:
        """Return the tensors [..., n, width] added to what a convolution gives.

        They may be cut, turned and resized on their way; they are returned as stored,
        in the order of their length n.
        """
        after, reached, roots = self._users.get(bias, [])[:1], [], []
        for _ in range(30):  # Shapes, transposition and the class token come between.
            following = []
            for node in after:
                if node.op_type == "Shape":
                    continue
                others = [i for i in node.input if i not in reached]
                if node.op_type == "Add" and reached:
                    roots += others
                    continue
                reached += node.output
                for output in node.output:
                    following += self._users.get(output, ())
            if roots or not following:
                break
            after = following
        found: dict[str, np.ndarray] = {}
        waiting, seen = list(roots), set()
        while waiting:
            name = waiting.pop()
            if name in seen or not name:
                continue
            seen.add(name)
            if name in self:
                tensor = self._tensors[name]
                if tensor.data_type in _KINDS and tensor.dims[-1:] == [width]:
                    found[name] = self.tensor(name)
            elif name in self._makers and self._makers[name].op_type != "Shape":
                waiting += self._makers[name].input
        flat = (value.reshape(-1, width) for value in found.values())
        return sorted(flat, key=len)


def read(path: pathlib.Path) -> dict[str, torch.Tensor]:
    """Return the ViT of an ONNX export, under timm's names.

    Args:
      path: an ONNX export of Hugging Face's Dinov2, of any size, alone or below a head.

    Returns:
      float32 tensors by name. `pos_embed` [1, 1 + n, D] is of the export's own image
      size, resized as the export does, or as stored where the size is free.

    Raises:
      UserError: unreadable, quantised, or another model (named by what it has).
    """
    graph = _Graph(path)
    starts = [name for name in graph.names if name.endswith(_PATCHES)]
    layers = {
        m[1] for n in graph.names if (m := re.search(r"encoder\.layer\.(\d+)\.", n))
    }
    if len(starts) != 1 or not layers:
        shown = weights.shown(n for n in graph.names if "::" not in n)
        raise UserError(
            f"{path}: is no export of Hugging Face's Dinov2: it has "
            f"{shown or 'no named tensors'}"
        )
    prefix = starts[0].removesuffix(_PATCHES)
    if f"{prefix}embeddings.register_tokens" in graph:
        raise UserError(
            f"{path}: has register tokens, so it is a Dinov2WithRegisters; give its "
            "weights as safetensors to --weights instead"
        )
    projection = _PATCHES.removesuffix(".weight")
    state = {
        name: graph.tensor(prefix + name)
        for name in (
            "embeddings.cls_token",
            "layernorm.weight",
            "layernorm.bias",
            *(f"{projection}.{part}" for part in _AFFINE),
        )
    }
    state["embeddings.position_embeddings"] = _positions(
        graph, f"{prefix}{projection}.bias", state[_PATCHES]
    )
    for i in range(len(layers)):
        layer = f"encoder.layer.{i}."
        gated = f"{prefix}{layer}{_GATED[0]}.bias" in graph
        state |= {
            layer + name: graph.tensor(prefix + layer + name) for name in _VECTORS
        }
        for name in (*_ATTENTION, *(_GATED if gated else _MLP)):
            linear = layer + name
            state[f"{linear}.weight"] = graph.matrix(prefix + linear)
            state[f"{linear}.bias"] = graph.tensor(f"{prefix}{linear}.bias")
    # Copied: safetensors stores no transposed views.
    tensors = {n: torch.from_numpy(value.copy()) for n, value in state.items()}
    return layouts.to_timm(tensors)


def _positions(graph: _Graph, bias: str, kernel: np.ndarray) -> np.ndarray:
    """Return the position embeddings [1, 1 + n, D], the class token's first."""
    width, patch = kernel.shape[0], kernel.shape[-1]
    found = graph.added(bias, width)
    table = np.concatenate(found) if found else np.zeros((0, width), np.float32)
    side = math.isqrt(max(len(table) - 1, 0))
    if not side or side**2 + 1 != len(table):
        raise UserError(
            f"{graph.path}: finds no position embeddings of a class token and a square "
            f"of patches, but {[len(part) for part in found]} rows; export the model "
            "without further optimization"
        )
    wanted = [size // patch for size in graph.image_size if size]
    if len(wanted) == 2 and wanted[0] == wanted[1] != side:
        # [1, D, side, side]; the rule of Hugging Face's Dinov2.
        grid = torch.from_numpy(table[1:].T.reshape(1, width, side, side).copy())
        grid = functional.interpolate(
            grid, wanted, mode="bicubic", align_corners=False, antialias=False
        )
        table = np.concatenate([table[:1], grid.reshape(width, -1).numpy().T])
    return table[None]


def convert(path: pathlib.Path, target: pathlib.Path):
    """Write the ViT of an ONNX export to a safetensors file, whole or not at all.

    Metadata: `source` and `source_sha256` of the export.

    Raises:
      UserError: what `read` raises; `target` is there or not writable.
    """
    weights.check_target(target)
    state = read(path)
    metadata = {"source": path.name, "source_sha256": weights.sha256(path)}
    weights.save(target, state, metadata)
    logging.info(
        "%s: %d tensors, %d values",
        target,
        len(state),
        sum(x.numel() for x in state.values()),
    )


if __name__ == "__main__":
    weights.run_conversion("model.onnx", convert)
