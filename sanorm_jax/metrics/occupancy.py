"""Slot occupancy: how attention or masks are distributed over the slots."""

import jax
import jax.numpy as jnp


def slot_occupancy(
    maps: jax.Array, slot_mask: jax.Array | None = None
) -> dict[str, jax.Array]:
    """Return statistics of a soft assignment of N tokens to K slots, for each image.

    Let `a[k, n]` be the attention or the decoder's masks, which sum to 1 over the slots
    for every token n. Logarithms are natural, and 0 log 0 = 0.

        slot_mass[k]  = 1/N sum_n a[k, n]
                        The masses of an image sum to 1. They are sorted in descending
                        order, because slots have no order.
        slot_entropy  = -sum_k m[k] log m[k] of the masses m
                        0 if one slot has all mass, log K if all have the same mass.
        token_entropy = -1/N sum_n sum_k a[k, n] log a[k, n]
                        0 if each token belongs to one slot.
        empty_slots   = 1/K #{k: no token n has k = argmax_j a[j, n]}
                        Of equal maxima, the first slot counts. Inactive slots are
                        excluded.

    Args:
      maps: Attention or masks `[B, K, N]`.
      slot_mask: Active slots, bool `[B, K]`; all if None.

    Returns:
      `slot_mass` `[B, K]` and the other statistics `[B]`, all float32.
    """
    maps = maps.astype(jnp.float32)
    num_slots = maps.shape[1]
    # [B, K]
    mass = maps.mean(axis=2)
    wins = jax.nn.one_hot(maps.argmax(axis=1), num_slots).sum(axis=1)
    return {
        "slot_mass": -jnp.sort(-mass, axis=1),
        "slot_entropy": _entropy(mass),
        "token_entropy": _entropy(maps).mean(axis=1),
        "empty_slots": (wins == 0).mean(axis=1, where=slot_mask),
    }


def _entropy(probabilities: jax.Array) -> jax.Array:
    """Return the entropy over axis 1."""
    logs = jnp.log(jnp.where(probabilities > 0, probabilities, 1.0))
    return -jnp.sum(probabilities * logs, axis=1)
