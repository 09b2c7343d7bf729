"""Soft position embedding of feature maps.

Source: Locatello et al., "Object-Centric Learning with Slot Attention" (NeurIPS 2020),
appendix E.2, with further options of the original implementation.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from sanorm_jax.core.errors import UserError
from sanorm_jax.models import layers

NORM_EPSILON = 1e-5


def position_grid(height: int, width: int) -> np.ndarray:
    """Return linear ramps `[height, width, 4]`: y, x, 1 - y, 1 - x, in [0, 1]."""
    y, x = np.meshgrid(
        np.linspace(0, 1, height, dtype=np.float32),
        np.linspace(0, 1, width, dtype=np.float32),
        indexing="ij",
    )
    return np.stack([y, x, 1 - y, 1 - x], axis=-1)


class SoftPositionEmbedding(nn.Module):
    """Position embedding that is added or concatenated to a feature map.

    Attributes:
      concat: Whether to concatenate the embedding instead of adding its projection.
      normalize: Whether to normalize each feature map and the embedding to mean 0 and
        variance 1 first.
      learnable_dim: Number of channels of a learned embedding; 0 for linear ramps.
      weight: Factor of the embedding; 1 if None.
      dtype: Dtype of the result; the normalization is float32.
    """

    concat: bool = False
    normalize: bool = False
    learnable_dim: int = 0
    weight: float | None = None
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, features):
        """Return feature maps `[B, H, W, C]`, or `[B, H, W, C + E]` with `concat`."""
        _, height, width, channels = features.shape
        if self.normalize:
            features = _normalize(features.astype(jnp.float32), axis=(1, 2, 3))
        features = features.astype(self.dtype)
        embedding = self._embedding(height, width).astype(self.dtype)
        if self.concat:
            shape = (*features.shape[:-1], embedding.shape[-1])
            embedding = jnp.broadcast_to(embedding, shape)
            return jnp.concatenate([features, embedding], axis=-1)
        init = layers.initializers("glorot", embedding.shape[-1])
        dense = nn.Dense(channels, dtype=self.dtype, name="dense", **init)
        return features + dense(embedding)

    def fixed_embedding(self, height: int, width: int) -> np.ndarray:
        """Return the linear ramps `[H, W, 4]` after normalization and weighting."""
        return np.asarray(self._scale(position_grid(height, width)))

    def _embedding(self, height, width):
        if self.learnable_dim < 0:
            raise UserError(
                f"learnable_dim={self.learnable_dim}: is negative; use 0 or more"
            )
        if not self.learnable_dim:
            return jnp.asarray(self.fixed_embedding(height, width))

        def init(key, shape):
            # PyTorch's Glorot bound for a tensor with three axes.
            bound = (6 / ((shape[0] + shape[1]) * shape[2])) ** 0.5
            return self._scale(
                jax.random.uniform(key, shape, jnp.float32, -bound, bound)
            )

        # As in the original implementation, `normalize` and `weight` only affect the
        # initial value of a learned embedding.
        return self.param("embedding", init, (height, width, self.learnable_dim))

    def _scale(self, embedding):
        if self.normalize:
            embedding = _normalize(embedding, axis=None)
        return embedding if self.weight is None else self.weight * embedding


def _normalize(x, axis):
    centered = x - x.mean(axis=axis, keepdims=True)
    variance = (centered**2).mean(axis=axis, keepdims=True)
    return centered / (variance + NORM_EPSILON) ** 0.5
