"""DINOSAUR: Slot Attention that reconstructs the features of a frozen encoder.

Source: Seitzer et al., "Bridging the Gap to Real-World Object-Centric Learning"
(ICLR 2023), with the MLP decoder, as used by Krimmel et al. (TMLR 2024).
"""

import itertools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from sanorm_jax.models import layers, masking
from sanorm_jax.models.slot_attention import SlotModel

# Maximum number of slot-token pairs that the decoder processes at once with `remat`.
REMAT_ROWS = 8192


class MLPDecoder(nn.Module):
    """MLP that decodes each slot at each token, with a mixture over slots.

    DINOSAUR's decoder (Seitzer et al., ICLR 2023, section 3.2) maps `slot + position`
    to features and a mask logit. A softmax over slots turns the logits into masks,
    which weight the features. Two changes reduce the cost; the result is the same up to
    rounding. The first layer is linear, so it is applied to slots and positions
    separately. The masks sum to 1, so hidden features are mixed before the last layer.

    Attributes:
      hidden_dim: Width H of the hidden layers.
      num_hidden_layers: Number of hidden layers.
      remat: Whether to process a few tokens at a time and recompute their hidden
        features for the gradient. Their memory then does not grow with the number of
        tokens.
      dtype: Dtype of the matrix products; masks are float32.
    """

    hidden_dim: int = 1024
    num_hidden_layers: int = 3
    remat: bool = False
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, slots, num_tokens: int, feature_dim: int, mask=None):
        """Decode the slots to features and masks.

        Args:
          slots: Slots `[B, K, D]`.
          num_tokens: Number of tokens N.
          feature_dim: Dimension F of the features of a token.
          mask: Active slots `[B, K]`; all if None.

        Returns:
          The reconstruction `[B, N, F]` and the masks `[B, K, N]`, both float32.
        """
        slot_dim = slots.shape[-1]
        positions = self.param(
            "positions", nn.initializers.normal(1.0), (num_tokens, slot_dim)
        )
        sizes = [slot_dim] + [self.hidden_dim] * self.num_hidden_layers
        hidden = [
            self._dense(f"hidden_{i}", fan_in, fan_out)
            for i, (fan_in, fan_out) in enumerate(itertools.pairwise(sizes))
        ]
        # Output 0 is the mask logit; the other outputs are features.
        kernel, bias = self._dense("out", sizes[-1], feature_dim + 1)

        # [B, K, H] and [N, H]
        from_slots = slots.astype(self.dtype) @ hidden[0][0] + hidden[0][1]
        from_positions = positions.astype(self.dtype) @ hidden[0][0]

        def mix(from_positions):
            """Return mixed hidden features `[B, n, H]` and masks `[B, K, n]`."""
            # [B, K, n, H]
            x = nn.relu(from_slots[:, :, None] + from_positions[None, None])
            for weight, offset in hidden[1:]:
                x = nn.relu(x @ weight + offset)
            logits = jnp.matmul(
                x, kernel[:, 0], preferred_element_type=jnp.float32
            ) + bias[0].astype(jnp.float32)
            masks = masking.softmax(logits, mask)
            # [B, K, n] x [B, K, n, H] -> [B, n, H]
            return jnp.einsum("bkn,bknh->bnh", masks.astype(self.dtype), x), masks

        if self.remat:
            mixed, masks = _in_chunks(
                mix, from_positions, slots.shape[0] * slots.shape[1]
            )
        else:
            mixed, masks = mix(from_positions)
        features = jnp.matmul(mixed, kernel[:, 1:], preferred_element_type=jnp.float32)
        return features + bias[1:].astype(jnp.float32), masks

    def _dense(self, name, fan_in, fan_out):
        """Return a kernel `[fan_in, fan_out]` and a bias `[fan_out]` in the dtype."""
        init = layers.uniform(fan_in**-0.5)
        kernel = self.param(f"{name}_kernel", init, (fan_in, fan_out))
        bias = self.param(f"{name}_bias", init, (fan_out,))
        return kernel.astype(self.dtype), bias.astype(self.dtype)


def _in_chunks(mix, from_positions, rows_per_token: int):
    """Apply `mix` to a few tokens at a time and recompute it for the gradient."""
    num_tokens = from_positions.shape[0]
    limit = min(num_tokens, max(1, REMAT_ROWS // rows_per_token))
    size = max(n for n in range(1, limit + 1) if num_tokens % n == 0)
    chunks = from_positions.reshape(num_tokens // size, size, -1)
    # [chunks, B, n, H] and [chunks, B, K, n]
    mixed, masks = jax.lax.map(jax.checkpoint(mix), chunks)
    mixed = jnp.moveaxis(mixed, 0, 1)
    masks = jnp.moveaxis(masks, 0, 2)
    mixed = mixed.reshape(mixed.shape[0], num_tokens, -1)
    return mixed, masks.reshape(*masks.shape[:2], num_tokens)


class Dinosaur(SlotModel):
    """Feature MLP, Slot Attention and MLP decoder on the features of an encoder.

    Attributes:
      slot_attention: Slot Attention over the encoded tokens.
      decoder_hidden_dim: Width of the decoder's hidden layers.
      decoder_num_hidden_layers: Number of the decoder's hidden layers.
      remat: Whether the decoder recomputes its hidden features, see `MLPDecoder`.
    """

    decoder_hidden_dim: int = 1024
    decoder_num_hidden_layers: int = 3
    remat: bool = False

    def encode(self, features):
        """Return tokens `[B, N, D]` for encoder features `[B, N, F]`."""
        tokens = layers.layer_norm("feature_norm", dtype=self.dtype)(features)
        return layers.MLP(
            features.shape[-1],
            self.slot_attention.slot_dim,
            "torch",
            self.dtype,
            name="feature_mlp",
        )(tokens)

    def decode(self, slots, features, mask=None):
        """Return `reconstruction` `[B, N, F]` and `masks` `[B, K, N]`."""
        decoder = MLPDecoder(
            self.decoder_hidden_dim,
            self.decoder_num_hidden_layers,
            self.remat,
            self.dtype,
            name="decoder",
        )
        reconstruction, masks = decoder(slots, *features.shape[1:], mask)
        return {"reconstruction": reconstruction, "masks": masks}
