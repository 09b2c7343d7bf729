"""Layers of several models, initialized as in the original implementation."""

from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from sanorm_jax.core.errors import check_name
from sanorm_jax.models import convolution

glorot = nn.initializers.glorot_uniform()


def uniform(bound: float) -> Callable:
    """Return an initializer that samples uniformly from [-bound, bound]."""

    def init(key, shape, dtype=jnp.float32):
        return jax.random.uniform(key, shape, dtype, -bound, bound)

    return init


def initializers(style: str, fan_in: int) -> dict[str, Any]:
    """Return `kernel_init` and `bias_init` of a dense or convolutional layer.

    Args:
      style: `glorot` (Glorot uniform kernel, zero bias, TensorFlow's default) or
        `torch` (both uniform in +-1/sqrt(fan_in), PyTorch's default).
      fan_in: Number of inputs that each output sums over.
    """
    check_name("init_style", style, ("glorot", "torch"))
    if style == "glorot":
        return {"kernel_init": glorot, "bias_init": nn.initializers.zeros}
    bound = fan_in**-0.5
    return {"kernel_init": uniform(bound), "bias_init": uniform(bound)}


def layer_norm(name: str, epsilon: float = 1e-5, dtype: Any = jnp.float32):
    """Return a LayerNorm with float32 statistics, computed in two passes."""
    return nn.LayerNorm(
        epsilon=epsilon, dtype=dtype, use_fast_variance=False, name=name
    )


class MLP(nn.Module):
    """Two dense layers with a ReLU between them.

    Attributes:
      hidden_dim: Width of the hidden layer.
      out_dim: Number of outputs.
      init_style: Initialization, see `initializers`.
      dtype: Compute dtype.
    """

    hidden_dim: int
    out_dim: int
    init_style: str = "glorot"
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x):
        """Map `[..., D]` to `[..., out_dim]`."""
        init = initializers(self.init_style, x.shape[-1])
        x = nn.relu(
            nn.Dense(self.hidden_dim, dtype=self.dtype, name="hidden", **init)(x)
        )
        init = initializers(self.init_style, self.hidden_dim)
        return nn.Dense(self.out_dim, dtype=self.dtype, name="out", **init)(x)


class GRU(nn.Module):
    """Gated recurrent unit with separate biases for input and state.

    The cells of TensorFlow (`reset_after`) and PyTorch compute the same function. They
    store and initialize their weights differently. Here the gates are in the order
    update, reset, candidate; `torch_weights` converts from PyTorch's order.

    Attributes:
      style: Initialization: `tf` (joint Glorot kernel, joint orthogonal recurrent
        kernel, zero biases) or `torch` (all uniform in +-1/sqrt(D)).
      dtype: Dtype of the matrix products; the gates are float32.
    """

    style: str = "tf"
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, inputs, state):
        """Return the next state `[..., D]`, from inputs `[..., C]` and a state."""
        dim = state.shape[-1]
        check_name("gru", self.style, ("tf", "torch"))
        if self.style == "tf":
            inits = (glorot, nn.initializers.orthogonal(), nn.initializers.zeros)
        else:
            inits = (uniform(dim**-0.5),) * 3
        kernel = self.param("kernel", inits[0], (inputs.shape[-1], 3 * dim))
        recurrent = self.param("recurrent_kernel", inits[1], (dim, 3 * dim))
        bias = self.param("bias", inits[2], (2, 3 * dim))

        # [..., 3D]
        from_inputs = self._matmul(inputs, kernel) + bias[0]
        from_state = self._matmul(state, recurrent) + bias[1]
        gates = nn.sigmoid(from_inputs[..., : 2 * dim] + from_state[..., : 2 * dim])
        update, reset = gates[..., :dim], gates[..., dim:]
        candidate = jnp.tanh(
            from_inputs[..., 2 * dim :] + reset * from_state[..., 2 * dim :]
        )
        return (1 - update) * candidate + update * state

    def _matmul(self, x, kernel):
        return jnp.matmul(
            x.astype(self.dtype),
            kernel.astype(self.dtype),
            preferred_element_type=jnp.float32,
        )


class Conv(nn.Module):
    """Convolution of NHWC images, with bias.

    Attributes:
      features: Number of output channels.
      kernel_size: Side of the kernel.
      stride: Stride along both axes.
      upsample: Whether to double the size, see `convolution.upsampling_conv`.
      init_style: Initialization, see `initializers`.
      dtype: Compute dtype.
    """

    features: int
    kernel_size: int = 5
    stride: int = 1
    upsample: bool = False
    init_style: str = "glorot"
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x):
        """Map `[B, H, W, C]` to `[B, H', W', features]`."""
        shape = (self.kernel_size, self.kernel_size, x.shape[-1], self.features)
        init = initializers(self.init_style, shape[0] * shape[1] * shape[2])
        kernel = self.param("kernel", init["kernel_init"], shape).astype(self.dtype)
        bias = self.param("bias", init["bias_init"], shape[-1:]).astype(self.dtype)
        x = x.astype(self.dtype)
        if self.upsample:
            return convolution.upsampling_conv(x, kernel) + bias
        return convolution.conv(x, kernel, self.stride) + bias


def apply_convs(convs: Sequence[Conv], x: jax.Array, last_relu: bool) -> jax.Array:
    """Apply convolutions with ReLUs between them.

    Args:
      convs: Layers, in order.
      x: Images `[B, H, W, C]`.
      last_relu: Whether a ReLU also follows the last layer.
    """
    functions: list[Callable] = [
        lambda x, conv=conv: nn.relu(conv(x)) for conv in convs
    ]
    if not last_relu:
        functions[-1] = convs[-1]
    return convolution.in_pieces(functions, x)
