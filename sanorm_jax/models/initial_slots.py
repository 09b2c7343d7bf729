"""Initial slots, from which Slot Attention starts.

An entry of `INITIAL_SLOTS` is a function `(module, tokens, noise, mask) -> slots`:

    module: `SlotAttention` module, in its compact method, that holds the parameters.
    tokens: Normalized tokens `[B, N, C]`.
    noise: Standard normal noise `[B, K, D]`.
    mask: Active slots `[B, K]`, or None.
    slots: Initial slots `[B, K, D]`, float32.

To add an initialization, write it in this file and add it to `INITIAL_SLOTS`.
"""

from typing import Any

import jax
import jax.numpy as jnp

from sanorm_jax.core.errors import UserError
from sanorm_jax.models import layers


def gaussian(module: Any, tokens: jax.Array, noise: jax.Array, mask: Any) -> jax.Array:
    """Sample from a normal distribution with learned mean and variance.

    Source: Locatello et al. (NeurIPS 2020), algorithm 1.
    """
    del tokens, mask
    dim = noise.shape[-1]
    bound = (6 / (2 * dim)) ** 0.5
    mean = module.param("slots_mu", layers.uniform(bound), (1, 1, dim))
    log_sigma = module.param("slots_logsigma", layers.uniform(bound), (1, 1, dim))
    return mean + jnp.exp(log_sigma) * noise.astype(jnp.float32)


def learned(module: Any, tokens: jax.Array, noise: jax.Array, mask: Any) -> jax.Array:
    """Return one learned query per slot; the number of slots must be that of training.

    With bi-level optimization, which `SlotAttention` implements for the entry `bo_qsa`,
    this is BO-QSA (Jia et al., "Improving Object-centric Learning with Query
    Optimization", ICLR 2023).

    Raises:
      UserError: The number of slots differs from training.
    """
    del tokens, mask
    _, num_slots, dim = noise.shape
    if num_slots != module.num_slots:
        raise UserError(
            f"num_slots={num_slots}: slot_init={module.slot_init} has "
            f"{module.num_slots} queries; use as many slots, or train with "
            "slot_init=gaussian or tokens"
        )
    queries = module.param("slots_queries", layers.glorot, (num_slots, dim))
    return jnp.broadcast_to(queries, noise.shape)


def tokens(module: Any, tokens: jax.Array, noise: jax.Array, mask: Any) -> jax.Array:
    """Return a learned linear map of tokens that k-means++ chooses as seeds.

    Source: Arthur and Vassilvitskii, "k-means++" (SODA 2007), section 2.2. Each seed is
    a token, sampled with a probability proportional to its squared distance from the
    nearest previous seed. The number of slots may differ from training.
    """
    seeds = jax.lax.stop_gradient(kmeans_plus_plus(tokens, noise[..., 0], mask))
    # [B, K, C]
    chosen = jnp.take_along_axis(tokens, seeds[..., None], axis=1)
    kernel = module.param(
        "to_slots", layers.glorot, (tokens.shape[-1], noise.shape[-1])
    )
    return chosen.astype(jnp.float32) @ kernel


def kmeans_plus_plus(
    tokens: jax.Array, noise: jax.Array, mask: jax.Array | None = None
) -> jax.Array:
    """Return the indices of the tokens that k-means++ chooses as seeds, `[B, K]`.

    Args:
      tokens: Tokens `[B, N, C]`.
      noise: Standard normal noise `[B, K]`; each value samples one seed.
      mask: Active slots `[B, K]`; seeds of inactive slots do not affect later seeds.
    """
    tokens = tokens.astype(jnp.float32)
    uniform = jax.scipy.stats.norm.cdf(noise)
    taking_part = jnp.ones(noise.shape, bool) if mask is None else mask.astype(bool)

    def draw(carry, slot):
        # Squared distance from the nearest seed, infinite before the first: [B, N]
        nearest = carry
        uniform, takes_part = slot
        weights = jnp.where(jnp.isinf(nearest), 1.0, nearest)
        cumulative = jnp.cumsum(weights, axis=1)
        threshold = uniform[:, None] * cumulative[:, -1:]
        index = jnp.argmax(cumulative > threshold, axis=1)
        seed = jnp.take_along_axis(tokens, index[:, None, None], axis=1)
        distance = jnp.square(tokens - seed).sum(-1)
        repelled = jnp.minimum(nearest, distance)
        return jnp.where(takes_part[:, None], repelled, nearest), index

    start = jnp.full(tokens.shape[:2], jnp.inf)
    _, seeds = jax.lax.scan(draw, start, (uniform.T, taking_part.T))
    return seeds.T


INITIAL_SLOTS = {
    "gaussian": gaussian,
    "learned": learned,
    "tokens": tokens,
    # For bi-level optimization, `SlotAttention` sends the gradient to the queries.
    "bo_qsa": learned,
}
# Entries with one query per slot, which need as many slots as in training.
ONE_COUNT = ("learned", "bo_qsa")
