"""How attention is spread over the slots: what more slots than needed do with it."""

import jax
import jax.numpy as jnp


def slot_occupancy(
    maps: jax.Array, slot_mask: jax.Array | None = None
) -> dict[str, jax.Array]:
    """Statistics of an assignment a[k, n] of N tokens to K slots, for each image.

    With a[k, n] >= 0 and sum_k a[k, n] = 1 for every token n (attention, or the
    decoder's masks), 0 log 0 = 0, and natural logarithms:

        slot_mass[k]  = 1/N sum_n a[k, n]; the masses of an image sum to 1. They are
                        sorted, the largest first: slots have no order of their own.
        slot_entropy  = -sum_k m[k] log m[k] of the masses m; 0 if one slot has all,
                        log K if all slots have the same. exp(slot_entropy) counts
                        the slots in use.
        token_entropy = -1/N sum_n sum_k a[k, n] log a[k, n]; 0 where each token
                        belongs to one slot: the softness of the assignment.
        empty_slots   = 1/K #{k: no token n has k = argmax_j a[j, n]}: the share of
                        slots that win no token. Equal maxima go to the first slot.
                        Masked slots are not counted.

    Args:
      maps: a, `[B, K, N]`.
      slot_mask: Slots that take part, bool `[B, K]`; all if None.

    Returns:
      `slot_mass` float32 `[B, K]`; the others float32 `[B]`.
    """
    maps = maps.astype(jnp.float32)
    num_slots = maps.shape[1]
    # [B, K]
    mass = maps.mean(axis=2)
    wins = jax.nn.one_hot(maps.argmax(axis=1), num_slots).sum(axis=1)
    return {
        "slot_mass": -jnp.sort(-mass, axis=1),
        "slot_entropy": _entropy(mass, axis=1),
        "token_entropy": _entropy(maps, axis=1).mean(axis=1),
        "empty_slots": (wins == 0).mean(axis=1, where=slot_mask),
    }


def _entropy(probabilities, axis):
    logs = jnp.log(jnp.where(probabilities > 0, probabilities, 1.0))
    return -jnp.sum(probabilities * logs, axis=axis)
