"""Slot Attention with a choice of update normalization.

Sources: Locatello et al., "Object-Centric Learning with Slot Attention"
(NeurIPS 2020), algorithm 1; Krimmel et al. (TMLR 2024, arXiv 2407.04170),
section 3, for the normalizations; Chang et al., "Object Representations as
Fixed Points" (NeurIPS 2022) for implicit differentiation.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from sanorm_jax.core.errors import UserError
from sanorm_jax.models import layers, normalization
from sanorm_jax.models.position_embedding import SoftPositionEmbedding


class SlotAttention(nn.Module):
    """Groups tokens into slots by attention that competes over the slots.

    Attributes:
      num_slots: Number of slots K in training, and the default of a call.
      slot_dim: Features D of a slot.
      num_iterations: Number of iterations in training, and the default of a call.
      common_dim: Dimension of keys, queries and values; `slot_dim` if None.
      hidden_dim: Hidden width of the MLP, at least the common dimension.
      update_normalization: Key of `normalization.NORMALIZATIONS`, or an alias.
      gru: `tf` or `torch`, see `layers.GRU`.
      implicit: Whether the gradient passes through the last iteration only.
      axis_name: Mapped axis over which the batch is spread, for batch norm.
      dtype: Dtype of the matrix products. Softmax, normalizers, gates and the slots
        between iterations are float32.
    """

    num_slots: int = 7
    slot_dim: int = 64
    num_iterations: int = 3
    common_dim: int | None = None
    hidden_dim: int = 128
    update_normalization: str = "weighted_mean"
    gru: str = "tf"
    implicit: bool = False
    axis_name: str | None = None
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self,
        inputs: jax.Array,
        *,
        train: bool,
        num_slots: int | None = None,
        num_iterations: int | None = None,
        initial_slots: jax.Array | None = None,
        noise: jax.Array | None = None,
    ) -> tuple[jax.Array, jax.Array]:
        """Return slots `[B, K, D]` and attention `[B, K, N]`, both float32.

        Args:
          inputs: Tokens `[B, N, C]`.
          train: Whether normalizers use (and update) batch statistics.
          num_slots: K, if other than in training.
          num_iterations: Number of iterations, if other than in training.
          initial_slots: Slots `[B, K, D]` to start from.
          noise: Standard normal `[B, K, D]` to draw initial slots with. Without
            `initial_slots` and `noise`, it comes from the stream `slots`.

        Returns:
          The slots after the last iteration and the attention of that
          iteration, before its update.

        Raises:
          UserError: a number that is not positive, or arguments that disagree.
        """
        common_dim = _positive("common_dim", self.common_dim, self.slot_dim)
        hidden_dim = max(common_dim, self.hidden_dim)
        num_iterations = _positive(
            "num_iterations", num_iterations, self.num_iterations
        )
        batch_size, _, input_dim = inputs.shape
        slots = self._initial_slots(batch_size, num_slots, initial_slots, noise)

        norm_slots = layers.layer_norm("norm_slots")
        norm_mlp = layers.layer_norm("norm_mlp")
        gru = layers.GRU(self.gru, self.dtype, name="gru")
        mlp = layers.MLP(hidden_dim, self.slot_dim, dtype=self.dtype, name="mlp")
        normalize = normalization.make(
            self.update_normalization, self.num_slots, self.axis_name
        )
        to_q = self.param("to_q", layers.glorot, (self.slot_dim, common_dim))
        to_k = self.param("to_k", layers.glorot, (input_dim, common_dim))
        to_v = self.param("to_v", layers.glorot, (input_dim, common_dim))

        # [B, N, C] -> [B, N, common_dim], twice
        inputs = layers.layer_norm("norm_inputs", dtype=self.dtype)(inputs)
        keys = inputs @ to_k.astype(self.dtype)
        values = inputs @ to_v.astype(self.dtype)
        moments = None

        for iteration in range(num_iterations):
            if self.implicit and iteration == num_iterations - 1:
                slots, moments = jax.lax.stop_gradient((slots, moments))
            # The scale goes with the queries, of which there are few.
            queries = norm_slots(slots).astype(self.dtype) @ to_q.astype(self.dtype)
            queries = queries * common_dim**-0.5
            # [B, K, N]
            logits = jnp.einsum(
                "bkc,bnc->bkn", queries, keys, preferred_element_type=jnp.float32
            )
            attention = jax.nn.softmax(logits, axis=1)
            updates, moments = normalize(attention, values, moments, train)
            slots = gru(updates, slots)
            slots = slots + mlp(norm_mlp(slots)).astype(jnp.float32)
        return slots, attention

    def _initial_slots(self, batch_size, num_slots, initial_slots, noise):
        """Return the slots `[B, K, D]` that iteration 0 starts from."""
        bound = (6 / (2 * self.slot_dim)) ** 0.5
        shape = (1, 1, self.slot_dim)
        mean = self.param("slots_mu", layers.uniform(bound), shape)
        log_sigma = self.param("slots_logsigma", layers.uniform(bound), shape)
        if initial_slots is not None and noise is not None:
            raise UserError("initial_slots and noise exclude each other; give one")
        given = initial_slots if initial_slots is not None else noise
        if given is None:
            num_slots = _positive("num_slots", num_slots, self.num_slots)
            shape = (batch_size, num_slots, self.slot_dim)
            noise = jax.random.normal(self.make_rng("slots"), shape)
        else:
            num_slots = _positive("num_slots", num_slots, given.shape[1])
            shape = (batch_size, num_slots, self.slot_dim)
            if given.shape != shape:
                raise UserError(
                    f"initial slots or noise have shape {given.shape}, need {shape}"
                )
        if initial_slots is not None:
            return initial_slots.astype(jnp.float32)
        return mean + jnp.exp(log_sigma) * noise.astype(jnp.float32)


class SlotModel(nn.Module):
    """Base of the models: encode to tokens, Slot Attention, decode the slots.

    A model defines `encode`, which makes tokens, and `decode`, which reads slots.

    Attributes:
      slot_attention: The module between the two; its `dtype` is the model's.
    """

    slot_attention: SlotAttention

    @property
    def dtype(self) -> Any:
        """Dtype of the model's matrix products."""
        return self.slot_attention.dtype

    @nn.compact
    def __call__(
        self,
        inputs: jax.Array,
        *,
        train: bool,
        num_slots: int | None = None,
        num_iterations: int | None = None,
        initial_slots: jax.Array | None = None,
        noise: jax.Array | None = None,
    ) -> dict[str, jax.Array]:
        """Encode the inputs, group the tokens into slots, and decode the slots.

        Args:
          inputs: Argument of `encode`.
          train: Whether normalizers use (and update) batch statistics.
          num_slots: K, if other than in training.
          num_iterations: Number of iterations, if other than in training.
          initial_slots: Slots `[B, K, D]` to start from.
          noise: Standard normal `[B, K, D]` to draw initial slots with.

        Returns:
          `slots` `[B, K, D]`, `attention` `[B, K, N]` and the outputs of `decode`, all
          float32.

        Raises:
          UserError: The inputs do not fit the model; see also `SlotAttention`.
        """
        tokens = self.encode(inputs)
        slots, attention = self.slot_attention(
            tokens,
            train=train,
            num_slots=num_slots,
            num_iterations=num_iterations,
            initial_slots=initial_slots,
            noise=noise,
        )
        return self.decode(slots, inputs) | {"slots": slots, "attention": attention}

    def encode(self, inputs: jax.Array, /) -> jax.Array:
        """Return tokens `[B, N, C]`."""
        raise NotImplementedError

    def decode(self, slots: jax.Array, inputs: jax.Array, /) -> dict[str, jax.Array]:
        """Return the decoded slots in float32; the inputs give shapes."""
        raise NotImplementedError

    @nn.nowrap
    def embedding(self, name: str) -> SoftPositionEmbedding:
        """Return the position embedding with the options in the attribute `name`."""
        options = getattr(self, name) or {}
        return SoftPositionEmbedding(
            **options, dtype=self.dtype, name=f"{name}_embedding"
        )

    def to_tokens(self, x: jax.Array, feature_dim: int) -> jax.Array:
        """Return tokens `[B, H W, feature_dim]` of a feature map `[B, H, W, C]`."""
        x = self.embedding("encoder_position")(x)
        x = x.reshape(x.shape[0], -1, x.shape[-1])
        x = layers.layer_norm("feature_norm", 1e-3, self.dtype)(x)
        mlp = layers.MLP(feature_dim, feature_dim, dtype=self.dtype, name="feature_mlp")
        return mlp(x)


def _positive(name: str, value: int | None, default: int) -> int:
    """Return `value`, or `default` where it is None; UserError below 1."""
    value = default if value is None else value
    if value < 1:
        raise UserError(f"{name}={value} must be at least 1")
    return value
