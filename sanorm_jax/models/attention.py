"""Attention functions: how tokens are distributed over the slots.

An entry of `ATTENTIONS` is a function `(logits, slots, mask) -> attention`, or a Linen
module class with the same call signature:

    logits: Products of queries and keys `[B, K, N]`, float32.
    slots: Normalized slots `[B, K, D]`.
    mask: Active slots `[B, K]`, or None.
    attention: `[B, K, N]`, float32; sums to 1 over the slots, 0 for inactive slots.

To add an attention function, write it in this file and add it to `ATTENTIONS`.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from sanorm_jax.core.errors import check_name
from sanorm_jax.models import masking

# MESH uses 5. With 20, the marginals are accurate to 1e-5 tokens for logits of unit
# variance, which layer norm produces at the start of training.
SINKHORN_ITERATIONS = 20


def softmax(
    logits: jax.Array, slots: jax.Array, mask: jax.Array | None = None
) -> jax.Array:
    """Apply softmax over the slots (Locatello et al., NeurIPS 2020, equation 1)."""
    del slots
    return jax.nn.softmax(masking.mask_logits(logits, mask), axis=1)


def sinkhorn(
    logits: jax.Array, log_shares: jax.Array, mask: jax.Array | None = None
) -> jax.Array:
    """Return the entropic transport plan of the tokens to the slots.

    Slot Attention as optimal transport follows MESH (Zhang et al., "Unlocking Slot
    Attention by Changing Optimal Transport Costs", ICML 2023), without its entropy
    minimization. The plan is computed by Sinkhorn's algorithm (Cuturi, NeurIPS 2013) in
    the log domain, with the logits as negative costs. The algorithm alternates

        f[k] = log mass[k] - log sum_n exp(logits[k, n] + g[n])
        g[n] =             - log sum_k exp(logits[k, n] + f[k])

    and returns `exp(logits[k, n] + f[k] + g[n])`. The last update is that of g, so the
    plan sums to exactly 1 over the slots. The mass of slot k is `N exp(log_shares[k])`,
    up to convergence after `SINKHORN_ITERATIONS`.

    Args:
      logits: Products of queries and keys `[B, K, N]`.
      log_shares: Logarithms of the slots' shares of the image `[B, K]`.
      mask: Active slots `[B, K]`; the shares of inactive slots are 0.
    """
    logits = masking.mask_logits(logits, mask)
    log_mass = log_shares + jnp.log(float(logits.shape[-1]))

    def step(potentials, _):
        _, token_potential = potentials
        # [B, K]
        slot_potential = log_mass - jax.nn.logsumexp(logits + token_potential, axis=2)
        if mask is not None:
            slot_potential = jnp.where(mask.astype(bool), slot_potential, 0.0)
        # [B, 1, N]
        token_potential = -jax.nn.logsumexp(
            logits + slot_potential[..., None], axis=1, keepdims=True
        )
        return (slot_potential, token_potential), None

    start = (jnp.zeros_like(log_mass), jnp.zeros_like(logits[:, :1]))
    (slot_potential, token_potential), _ = jax.lax.scan(
        step, start, length=SINKHORN_ITERATIONS
    )
    return jnp.exp(logits + slot_potential[..., None] + token_potential)


def sinkhorn_uniform(
    logits: jax.Array, slots: jax.Array, mask: jax.Array | None = None
) -> jax.Array:
    """Apply `sinkhorn` with equal masses for all slots."""
    del slots
    zeros = masking.mask_logits(jnp.zeros(logits.shape[:2]), mask)
    return sinkhorn(logits, jax.nn.log_softmax(zeros, axis=1), mask)


class SinkhornLearned(nn.Module):
    """Apply `sinkhorn` with masses that are predicted from the slots.

    As in MESH, the shares are a softmax over a linear map of the slots. Unlike in MESH,
    the marginals of the tokens are uniform, so that attention sums to 1 over the slots.
    """

    @nn.compact
    def __call__(
        self, logits: jax.Array, slots: jax.Array, mask: jax.Array | None = None
    ) -> jax.Array:
        """Return the attention `[B, K, N]`."""
        # Zeros, so that training starts with equal masses. shares: [B, K]
        kernel = self.param("share", nn.initializers.zeros, (slots.shape[-1],))
        shares = masking.mask_logits(slots.astype(jnp.float32) @ kernel, mask)
        return sinkhorn(logits, jax.nn.log_softmax(shares, axis=1), mask)


ATTENTIONS = {
    "softmax": softmax,
    "sinkhorn": sinkhorn_uniform,
    "sinkhorn_learned": SinkhornLearned,
}


def make(name: str):
    """Return an entry of `ATTENTIONS`; call it in a compact method of a module.

    Raises:
      UserError: The name is unknown.
    """
    check_name("attention", name, ATTENTIONS)
    attention = ATTENTIONS[name]
    return attention(name="marginals") if isinstance(attention, type) else attention
