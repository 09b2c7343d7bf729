"""Adaptive number of slots: a learned head keeps or drops each slot.

Source: Fan et al., "Adaptive Slot Attention: Object Discovery with Dynamic Slot Number"
(AdaSlot, CVPR 2024). In training, Gumbel-softmax with a straight-through gradient
samples the decisions. They mask the decoder, and the loss has a penalty on the expected
number of kept slots.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from sanorm_jax.models import layers

# Initial logit of keeping a slot, so that nearly all slots are kept at first.
_START = 3.0


class KeepHead(nn.Module):
    """MLP that predicts for each slot whether it is kept.

    Attributes:
      hidden_dim: Hidden width of the MLP.
    """

    hidden_dim: int

    @nn.compact
    def __call__(
        self,
        slots: jax.Array,
        noise: jax.Array | None = None,
        mask: jax.Array | None = None,
    ) -> tuple[jax.Array, jax.Array]:
        """Return the decisions and the probabilities of keeping, both `[B, K]`.

        Args:
          slots: Slots `[B, K, D]`.
          noise: Standard normal noise `[B, K]` that samples the decisions. If None,
            slots with a probability above 0.5 are kept.
          mask: Active slots `[B, K]`; inactive slots are not kept.

        Returns:
          Decisions, 0 or 1 with the gradient of their relaxation, and probabilities.
          The slot with the highest probability in an image is always kept.
        """
        slots = layers.layer_norm("norm")(slots)
        logits = _START + layers.MLP(self.hidden_dim, 1, name="mlp")(slots)[..., 0]
        taking_part = jnp.ones(logits.shape, bool) if mask is None else mask
        drawn = logits
        if noise is not None:
            # The difference of two Gumbel variables is logistic.
            uniform = jnp.clip(jax.scipy.stats.norm.cdf(noise), 1e-6, 1 - 1e-6)
            drawn = logits + jnp.log(uniform) - jnp.log1p(-uniform)
        likeliest = jnp.where(taking_part, logits, -jnp.inf).argmax(1, keepdims=True)
        kept = (drawn > 0) | (jnp.arange(logits.shape[1]) == likeliest)
        relaxed = nn.sigmoid(drawn)
        # Straight-through: the value of `kept`, the gradient of `relaxed`.
        decisions = kept + relaxed - jax.lax.stop_gradient(relaxed)
        taking_part = taking_part.astype(jnp.float32)
        return decisions * taking_part, nn.sigmoid(logits) * taking_part
