"""Adaptive number of slots: each slot is kept or dropped, by a learned decision.

AdaSlot (Fan et al., "Adaptive Slot Attention: Object Discovery with Dynamic Slot
Number", CVPR 2024): a head on the slots, Gumbel-softmax over keep and drop
with a straight-through gradient, a decoder masked by the decision, and a penalty on the
expected number of slots kept.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from sanorm_jax.models import layers

# Of the logit of keeping: at the start nearly all slots are kept.
_START = 3.0


class KeepHead(nn.Module):
    """Decides which slots are kept.

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
          slots: `[B, K, D]`.
          noise: Standard normal `[B, K]` to draw the decisions with. Without it, slots
            of a probability above one half are kept.
          mask: Slots that take part `[B, K]`; the others are not kept.

        Returns:
          Decisions 0 or 1, with the gradient of the relaxed ones, and probabilities.
          The likeliest slot of an image is always kept.
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
        # The value of the first, the gradient of the second.
        decisions = kept + relaxed - jax.lax.stop_gradient(relaxed)
        taking_part = taking_part.astype(jnp.float32)
        return decisions * taking_part, nn.sigmoid(logits) * taking_part
