"""Extract the ViT from an ONNX export of Hugging Face's Dinov2, for timm.

    python -m feature_extraction.convert_onnx model.onnx out.safetensors

`feature_extraction.extract --weights=out.safetensors` reads the result. The graph is
not run: only its tensors and the names of their users are read. Heads on top of the ViT
are dropped.
"""

import functools
import math
import pathlib
import re

import google.protobuf.message
import numpy as np
import onnx
import torch
from onnx import numpy_helper
from torch.nn import functional

from sanorm_jax.core import commands
from sanorm_jax.core.errors import UserError, list_some

from . import layouts, weights

_PATCHES = "embeddings.patch_embeddings.projection.weight"
_AFFINE = ("weight", "bias")
_DTYPES = (onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16)
# Affine maps of a layer; the giant model has a gated MLP.
_ATTENTION = tuple(f"attention.attention.{part}" for part in ("query", "key", "value"))
_ATTENTION += ("attention.output.dense",)
_MLP = ("mlp.fc1", "mlp.fc2")
_GATED = ("mlp.weights_in", "mlp.weights_out")
_VECTORS = ("layer_scale1.lambda1", "layer_scale2.lambda1")
_VECTORS += tuple(f"{norm}.{part}" for norm in ("norm1", "norm2") for part in _AFFINE)


class _Graph:
    """Tensors of an ONNX file by name, and the nodes that use them.

    Exporters keep the names of biases and vectors, but not those of transposed matrices
    and other precomputed tensors. These are found by the tensors they are added to.
    """

    def __init__(self, path: pathlib.Path):
        try:
            model = onnx.load(path, load_external_data=False)
        except OSError as error:
            raise UserError(
                f"{path}: unreadable ({error.strerror}); check the path"
            ) from None
        except google.protobuf.message.DecodeError:
            raise UserError(
                f"{path}: damaged or not an ONNX file; download or export it again"
            ) from None
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
        inputs = [i for i in model.graph.input if i.name not in self._tensors]
        sides = inputs[0].type.tensor_type.shape.dim[2:4] if inputs else ()
        # [height, width] of the image, 0 if dynamic.
        self.image_size = [side.dim_value for side in sides]

    def __contains__(self, name: str) -> bool:
        return name in self._tensors

    def tensor(self, name: str) -> np.ndarray:
        """Return a tensor as float32."""
        if name not in self._tensors:
            raise UserError(
                f"{self.path}: no tensor {name}; export Hugging Face's Dinov2"
            )
        tensor = self._tensors[name]
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            raise UserError(
                f"{self.path}: {name} is in another file; export to one file"
            )
        if tensor.data_type not in _DTYPES:
            kind = onnx.TensorProto.DataType.Name(tensor.data_type)
            raise UserError(
                f"{self.path}: {name} is {kind}; export without quantization"
            )
        try:
            value = numpy_helper.to_array(tensor)
        except ValueError as error:
            raise UserError(
                f"{self.path}: {name} is damaged ({str(error)[:100]}); export it again"
            ) from None
        return np.ascontiguousarray(value, np.float32)

    def matrix(self, name: str) -> np.ndarray:
        """Return the matrix `[out, in]` of an affine map, found by its bias."""
        if f"{name}.weight" in self:
            return self.tensor(f"{name}.weight")
        for user in self._users.get(f"{name}.bias", ()):
            if user.op_type == "Gemm":
                transposed = any(a.name == "transB" and a.i for a in user.attribute)
                found = self.tensor(user.input[1])
                return found if transposed else found.T
            for input_name in user.input:
                maker = self._makers.get(input_name)
                if maker is not None and maker.op_type == "MatMul":
                    found = [i for i in maker.input if i in self]
                    if len(found) == 1:
                        return self.tensor(found[0]).T
        raise UserError(
            f"{self.path}: no matrix found for {name}.bias; export without optimization"
        )

    def added(self, bias: str, width: int) -> list[np.ndarray]:
        """Return the tensors added to the output of the convolution with this bias.

        The nodes in between (slices, transpositions, resizing) are not applied.

        Returns:
          Stored tensors `[n, width]`, sorted by n.
        """
        after, reached, roots = self._users.get(bias, [])[:1], [], []
        # Shapes, transposition and the class token lie between.
        while after and not roots:
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
                if tensor.data_type in _DTYPES and tensor.dims[-1:] == [width]:
                    found[name] = self.tensor(name)
            elif name in self._makers and self._makers[name].op_type != "Shape":
                waiting += self._makers[name].input
        flat = (value.reshape(-1, width) for value in found.values())
        return sorted(flat, key=len)


def read(path: pathlib.Path) -> dict[str, torch.Tensor]:
    """Return the ViT of an ONNX export under timm's names.

    Args:
      path: ONNX export of Hugging Face's Dinov2 of any size, with or without a head.

    Returns:
      Tensors by name, float32. `pos_embed`, `[1, 1 + n, D]`, is resized to the image
      size of the export unless that is dynamic.

    Raises:
      UserError: The file is unreadable, quantized or of another model.
    """
    graph = _Graph(path)
    starts = [name for name in graph.names if name.endswith(_PATCHES)]
    layers = {
        m[1] for n in graph.names if (m := re.search(r"encoder\.layer\.(\d+)\.", n))
    }
    if len(starts) != 1 or not layers:
        found = list_some(n for n in graph.names if "::" not in n)
        raise UserError(
            f"{path}: contains {found or 'no named tensors'}; export Hugging Face's "
            "Dinov2"
        )
    prefix = starts[0].removesuffix(_PATCHES)
    if f"{prefix}embeddings.register_tokens" in graph:
        raise UserError(
            f"{path}: has register tokens (Dinov2WithRegisters); pass its weights as "
            "safetensors to --weights instead"
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
    # Copied, because safetensors rejects transposed views.
    tensors = {n: torch.from_numpy(value.copy()) for n, value in state.items()}
    return layouts.to_timm(tensors)


def _positions(graph: _Graph, bias: str, kernel: np.ndarray) -> np.ndarray:
    """Return the position embeddings `[1, 1 + n, D]`, the class token's first."""
    width, patch = kernel.shape[0], kernel.shape[-1]
    found = graph.added(bias, width)
    table = np.concatenate(found) if found else np.zeros((0, width), np.float32)
    side = math.isqrt(max(len(table) - 1, 0))
    if not side or side**2 + 1 != len(table):
        raise UserError(
            f"{graph.path}: position embeddings have {[len(part) for part in found]} "
            "rows, not a class token and a square of patches; export without "
            "optimization"
        )
    wanted = [size // patch for size in graph.image_size if size]
    if len(wanted) == 2 and wanted[0] == wanted[1] != side:
        # [1, D, side, side], as in Hugging Face's Dinov2.
        grid = torch.from_numpy(table[1:].T.reshape(1, width, side, side).copy())
        grid = functional.interpolate(
            grid, wanted, mode="bicubic", align_corners=False, antialias=False
        )
        table = np.concatenate([table[:1], grid.reshape(width, -1).numpy().T])
    return table[None]


convert = functools.partial(weights.convert, read=lambda path: (read(path), {}))

if __name__ == "__main__":
    commands.main(convert, arguments=("model.onnx", "out.safetensors"))
