"""Slot Attention with a choice of update normalization.

Sources: Locatello et al., "Object-Centric Learning with Slot Attention" (NeurIPS 2020),
algorithm 1. Krimmel et al. (TMLR 2024, arXiv 2407.04170), section 3, for the
normalizations. Chang et al., "Object Representations as Fixed Points" (NeurIPS 2022),
for implicit differentiation.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from sanorm_jax.core.errors import UserError, check_name
from sanorm_jax.models import attention as attention_lib
from sanorm_jax.models import layers, masking, normalization
from sanorm_jax.models.adaptive import KeepHead
from sanorm_jax.models.initial_slots import INITIAL_SLOTS
from sanorm_jax.models.position_embedding import SoftPositionEmbedding


class SlotAttention(nn.Module):
    """Iterative attention in which slots compete for tokens.

    Attributes:
      num_slots: Number of slots K in training and, by default, in a call.
      slot_dim: Dimension D of a slot.
      num_iterations: Number of iterations in training and, by default, in a call.
      common_dim: Dimension of keys, queries and values; `slot_dim` if None.
      hidden_dim: Hidden width of the MLP, raised to the common dimension if smaller.
      update_normalization: Key of `normalization.NORMALIZATIONS`, or an alias.
      attention: Key of `attention.ATTENTIONS`.
      num_heads: Number of heads, which share the common dimension equally. Each head
        has its own softmax over the slots (SAVi, Kipf et al., ICLR 2022).
      slot_init: Key of `initial_slots.INITIAL_SLOTS`. With `bo_qsa`, the gradient
        passes through the last iteration and from its input straight to the queries
        (BO-QSA, Jia et al., ICLR 2023).
      adaptive: Whether `adaptive.KeepHead` decides which slots a model decodes.
      gru: `tf` or `torch`, see `layers.GRU`.
      implicit: Whether the gradient passes through the last iteration only, the
        first-order approximation of implicit differentiation.
      axis_name: Name of the mapped axis over which the batch is split, for batch norm.
      dtype: Dtype of the matrix products. Softmax, normalizers, gates and the slots
        between iterations are float32.
    """

    num_slots: int = 7
    slot_dim: int = 64
    num_iterations: int = 3
    common_dim: int | None = None
    hidden_dim: int = 128
    update_normalization: str = "weighted_mean"
    attention: str = "softmax"
    num_heads: int = 1
    slot_init: str = "gaussian"
    adaptive: bool = False
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
        mask: jax.Array | None = None,
    ) -> tuple[jax.Array, jax.Array]:
        """Return slots `[B, K, D]` and attention `[B, K, N]`, both float32.

        Args:
          inputs: Tokens `[B, N, C]`.
          train: Whether batch norm uses (and updates its averages by) batch statistics.
          num_slots: Number of slots K; as in training if None.
          num_iterations: Number of iterations; as in training if None.
          initial_slots: Initial slots `[B, K, D]`; drawn if None.
          noise: Standard normal noise `[B, K, D]` that draws the initial slots. If
            None, the random stream `slots` generates it.
          mask: Active slots, bool `[B, K]`; all if None. The attention of inactive
            slots is 0, and they do not affect the other slots.

        Returns:
          The slots after the last iteration, and the attention that computed their last
          update.

        Raises:
          UserError: A number is not positive, or arguments contradict each other.
        """
        common_dim = _positive("common_dim", self.common_dim, self.slot_dim)
        hidden_dim = max(common_dim, self.hidden_dim)
        num_iterations = _positive(
            "num_iterations", num_iterations, self.num_iterations
        )
        num_heads = _positive("num_heads", self.num_heads, 1)
        if common_dim % num_heads:
            raise UserError(
                f"num_heads={num_heads}: does not divide the common dimension "
                f"{common_dim}; choose a divisor"
            )
        input_dim = inputs.shape[-1]
        # [B, N, C]
        inputs = layers.layer_norm("norm_inputs", dtype=self.dtype)(inputs)
        slots = self._initial_slots(inputs, num_slots, initial_slots, noise, mask)
        queries_to_learn = slots

        norm_slots = layers.layer_norm("norm_slots")
        norm_mlp = layers.layer_norm("norm_mlp")
        gru = layers.GRU(self.gru, self.dtype, name="gru")
        mlp = layers.MLP(hidden_dim, self.slot_dim, dtype=self.dtype, name="mlp")
        attend = attention_lib.make(self.attention)
        normalize = normalization.make(
            self.update_normalization, self.num_slots, self.axis_name
        )
        to_q = self.param("to_q", layers.glorot, (self.slot_dim, common_dim))
        to_k = self.param("to_k", layers.glorot, (input_dim, common_dim))
        to_v = self.param("to_v", layers.glorot, (input_dim, common_dim))

        # [B, N, C] -> [B H, N, common_dim / H], twice
        keys = _split_heads(inputs @ to_k.astype(self.dtype), num_heads)
        values = _split_heads(inputs @ to_v.astype(self.dtype), num_heads)
        head_mask = None if mask is None else _repeat_heads(mask, num_heads)
        moments = None

        for iteration in range(num_iterations):
            is_last = iteration == num_iterations - 1
            if is_last and (self.implicit or self.slot_init == "bo_qsa"):
                slots, moments = jax.lax.stop_gradient((slots, moments))
            if is_last and self.slot_init == "bo_qsa":
                # Straight-through: keep the value, send the gradient to the queries.
                slots += queries_to_learn - jax.lax.stop_gradient(queries_to_learn)
            normed = norm_slots(slots)
            # Scale the queries rather than the keys, because there are fewer.
            queries = normed.astype(self.dtype) @ to_q.astype(self.dtype)
            queries = queries * (common_dim // num_heads) ** -0.5
            # [B H, K, N]
            logits = jnp.einsum(
                "bkc,bnc->bkn",
                _split_heads(queries, num_heads),
                keys,
                preferred_element_type=jnp.float32,
            )
            attention = attend(logits, _repeat_heads(normed, num_heads), head_mask)
            updates, moments = normalize(attention, values, moments, train, head_mask)
            slots = gru(_merge_heads(updates, num_heads), slots)
            slots = slots + mlp(norm_mlp(slots)).astype(jnp.float32)
        if num_heads > 1:
            # [B H, K, N] -> [B, K, N]; the mean over heads still sums to 1 over slots.
            attention = attention.reshape(-1, num_heads, *attention.shape[1:]).mean(1)
        return slots, attention

    def _initial_slots(self, tokens, num_slots, initial_slots, noise, mask):
        """Return the slots `[B, K, D]` that iteration 0 starts from."""
        if initial_slots is not None and noise is not None:
            raise UserError("initial_slots: given together with noise; pass only one")
        given = initial_slots if initial_slots is not None else noise
        default = self.num_slots if given is None else given.shape[1]
        num_slots = _positive("num_slots", num_slots, default)
        shape = (tokens.shape[0], num_slots, self.slot_dim)
        if given is not None and given.shape != shape:
            raise UserError(
                f"initial slots or noise: shape {given.shape}; pass shape {shape}"
            )
        if mask is not None:
            masking.check(mask, *shape[:2])
        check_name("slot_init", self.slot_init, INITIAL_SLOTS)
        draw = INITIAL_SLOTS[self.slot_init]
        if initial_slots is not None:
            if self.is_initializing():
                draw(self, tokens, jnp.zeros(shape), mask)
            return initial_slots.astype(jnp.float32)
        if noise is None:
            noise = jax.random.normal(self.make_rng("slots"), shape)
        return draw(self, tokens, noise, mask)


def _split_heads(x: jax.Array, num_heads: int) -> jax.Array:
    """Return `[B H, L, C / H]` of `[B, L, C]`; the heads of an image are adjacent."""
    if num_heads == 1:
        return x
    B, L, C = x.shape
    x = x.reshape(B, L, num_heads, C // num_heads).transpose(0, 2, 1, 3)
    return x.reshape(B * num_heads, L, C // num_heads)


def _repeat_heads(x: jax.Array, num_heads: int) -> jax.Array:
    """Return `[B H, ...]` of `[B, ...]`, with a copy for each head of an image."""
    return x if num_heads == 1 else jnp.repeat(x, num_heads, axis=0)


def _merge_heads(x: jax.Array, num_heads: int) -> jax.Array:
    """Return `[B, L, C]` of `[B H, L, C / H]`."""
    if num_heads == 1:
        return x
    _, L, C = x.shape
    x = x.reshape(-1, num_heads, L, C).transpose(0, 2, 1, 3)
    return x.reshape(-1, L, num_heads * C)


class SlotModel(nn.Module):
    """Base of the models: an encoder, Slot Attention and a decoder.

    A model defines `encode` (inputs to tokens) and `decode` (slots to outputs).

    Attributes:
      slot_attention: Slot Attention module between the two. The model uses its `dtype`.
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
        mask: jax.Array | None = None,
        keep_noise: jax.Array | None = None,
    ) -> dict[str, jax.Array]:
        """Encode the inputs, group the tokens into slots, and decode the slots.

        Args:
          inputs: Inputs of `encode`.
          train: Whether batch norm uses (and updates its averages by) batch statistics.
          num_slots: Number of slots K; as in training if None.
          num_iterations: Number of iterations; as in training if None.
          initial_slots: Initial slots `[B, K, D]`; drawn if None.
          noise: Standard normal noise `[B, K, D]` that draws the initial slots.
          mask: Active slots, bool `[B, K]`; all if None.
          keep_noise: Standard normal noise `[B, K]` that samples which slots an
            adaptive model keeps. If None, slots with a probability above 0.5 are kept.

        Returns:
          `slots` `[B, K, D]`, `attention` `[B, K, N]` and the outputs of `decode`, all
          float32. With a mask or an adaptive model, also `slot_mask`, bool `[B, K]`:
          the slots that are active and kept. Only these have attention. An adaptive
          model also returns `keep_probability` `[B, K]`.

        Raises:
          UserError: The inputs do not fit the model, or see `SlotAttention`.
        """
        tokens = self.encode(inputs)
        slots, attention = self.slot_attention(
            tokens,
            train=train,
            num_slots=num_slots,
            num_iterations=num_iterations,
            initial_slots=initial_slots,
            noise=noise,
            mask=mask,
        )
        out = {"slots": slots, "attention": attention}
        if self.slot_attention.adaptive:
            head = KeepHead(self.slot_attention.hidden_dim, name="keep")
            mask, out["keep_probability"] = head(slots, keep_noise, mask)
            out["attention"] = masking.renormalize(attention, mask > 0.5)
        if mask is None:
            return self.decode(slots, inputs) | out
        out["slot_mask"] = mask > 0.5
        return self.decode(slots, inputs, mask) | out

    def encode(self, inputs: jax.Array, /) -> jax.Array:
        """Return tokens `[B, N, C]`."""
        raise NotImplementedError

    def decode(
        self, slots: jax.Array, inputs: jax.Array, mask: jax.Array | None = None, /
    ) -> dict[str, jax.Array]:
        """Return the decoded slots in float32.

        Args:
          slots: Slots `[B, K, D]`.
          inputs: Inputs of `encode`, which determine the shapes of the outputs.
          mask: Active slots `[B, K]`. A model that cannot mask slots may omit this
            argument.
        """
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
    """Return `value`, or `default` if it is None; raise `UserError` below 1."""
    value = default if value is None else value
    if value < 1:
        raise UserError(f"{name}={value}: is not positive; use at least 1")
    return value
