"""Small ONNX files in the layout of exports of Hugging Face's Dinov2."""

import pathlib

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

DIM, DEPTH, PATCH, STORED, SIDE = 8, 2, 2, 6, 4
LINEAR = {
    "attention.attention.query": (DIM, DIM),
    "attention.attention.key": (DIM, DIM),
    "attention.attention.value": (DIM, DIM),
    "attention.output.dense": (DIM, DIM),
    "mlp.fc1": (4 * DIM, DIM),
    "mlp.fc2": (DIM, 4 * DIM),
}
VECTORS = ("norm1.weight", "norm1.bias", "norm2.weight", "norm2.bias")
VECTORS += ("layer_scale1.lambda1", "layer_scale2.lambda1")


def state(seed: int = 0) -> dict[str, np.ndarray]:
    """Return random weights of a small Dinov2 under Hugging Face's names."""
    rng = np.random.default_rng(seed)
    shapes = {
        "embeddings.cls_token": (1, 1, DIM),
        "embeddings.position_embeddings": (1, 1 + STORED**2, DIM),
        "embeddings.patch_embeddings.projection.weight": (DIM, 3, PATCH, PATCH),
        "embeddings.patch_embeddings.projection.bias": (DIM,),
        "layernorm.weight": (DIM,),
        "layernorm.bias": (DIM,),
    }
    for i in range(DEPTH):
        layer = f"encoder.layer.{i}."
        shapes |= {layer + name: (DIM,) for name in VECTORS}
        for name, shape in LINEAR.items():
            shapes |= {f"{layer}{name}.weight": shape, f"{layer}{name}.bias": shape[:1]}
    return {k: rng.normal(size=s).astype(np.float32) for k, s in shapes.items()}


class Graph:
    """Builds a graph: nodes are added in order, tensors by name."""

    def __init__(self):
        self.nodes, self.tensors = [], []

    def tensor(self, name: str, value: np.ndarray) -> str:
        """Add an initializer; returns its name."""
        self.tensors.append(numpy_helper.from_array(np.asarray(value), name))
        return name

    def __call__(self, kind: str, *inputs: str, **attributes) -> str:
        """Add a node; returns the name of its output."""
        output = f"out_{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, list(inputs), [output], **attributes))
        return output

    def linear(self, x: str, name: str, weights, gemm: bool) -> str:
        """Add an affine map, whose matrix has lost its name."""
        matrix, bias = weights[f"{name}.weight"], f"backbone.{name}.bias"
        self.tensor(bias, weights[f"{name}.bias"])
        anonymous = f"onnx::MatMul_{len(self.tensors)}"
        if gemm:
            self.tensor(anonymous, matrix)
            return self("Gemm", x, anonymous, bias, transB=1)
        return self("Add", bias, self("MatMul", x, self.tensor(anonymous, matrix.T)))


def write(
    path: pathlib.Path,
    weights: dict[str, np.ndarray],
    *,
    folded: bool = True,
    gemm: bool = False,
    image_size: int | str = SIDE * PATCH,
    leave_out: str = "",
):
    """Write an export whose nodes stand in the order of Hugging Face's model.

    Args:
      path: file to write.
      weights: as `state` returns them.
      folded: positions are cut beforehand and have lost their name.
      gemm: affine maps are one node each.
      image_size: side of the input; a name where it is free.
      leave_out: name of a tensor that the file lacks.
    """
    g, prefix = Graph(), "backbone."
    named = lambda name: g.tensor(prefix + name, weights[name])  # noqa: E731
    patches = "embeddings.patch_embeddings.projection"
    x = g("Conv", "image", named(f"{patches}.weight"), named(f"{patches}.bias"))
    shape = g("Shape", x)
    x = g("Transpose", g("Reshape", x, shape))
    cls = g("Expand", named("embeddings.cls_token"), g("Shape", x))
    x = g("Concat", cls, x, axis=1)
    positions = weights["embeddings.position_embeddings"]
    if folded:
        first = g.tensor("onnx::Concat_1", positions[:, :1])
        rest = g.tensor("onnx::Reshape_2", positions[:, 1:])
    else:
        whole = named("embeddings.position_embeddings")
        ends = [g.tensor(f"end_{i}", np.array([i])) for i in (0, 1, 99)]
        first = g("Slice", whole, ends[0], ends[1])
        rest = g("Slice", whole, ends[1], ends[2])
    rest = g("Resize", g("Transpose", g("Reshape", rest, g("Shape", x))), "", "", shape)
    x = g("Add", x, g("Concat", first, g("Transpose", rest), axis=1))
    for i in range(DEPTH):
        layer = f"encoder.layer.{i}."
        for name in VECTORS:
            x = g("Mul", x, named(layer + name))
        for name in LINEAR:
            x = g.linear(x, layer + name, weights, gemm)
    x = g("Add", g("Mul", x, named("layernorm.weight")), named("layernorm.bias"))
    x = g("Conv", x, g.tensor("head.weight", np.ones((1, DIM, 1, 1), np.float32)))
    side = [image_size, image_size]
    model = helper.make_model(
        helper.make_graph(
            g.nodes,
            "export",
            [
                helper.make_tensor_value_info(
                    "image", TensorProto.FLOAT, ["b", 3, *side]
                )
            ],
            [helper.make_tensor_value_info(x, TensorProto.FLOAT, None)],
            [t for t in g.tensors if t.name != f"{prefix}{leave_out}"],
        )
    )
    onnx.save(model, path)
