"""One-to-one matching of slots to objects, and the set loss built on it."""

import jax
import jax.numpy as jnp
import optax


def match(
    costs: jax.Array,
    valid: jax.Array | None = None,
    slot_mask: jax.Array | None = None,
) -> jax.Array:
    """Match slots to targets at the smallest total cost (Hungarian algorithm).

    As many slots as possible get a valid target of their own: all valid targets
    are matched where there are at least as many slots, and all slots where there
    are fewer. Pairs whose cost is NaN or infinite are avoided where possible. The
    result carries no gradient.

    Args:
      costs: `[B, K, M]`, cost of giving target m to slot k; may be negative.
      valid: bool `[B, M]`, False for targets that only fill the array; by
        default all are valid.
      slot_mask: Slots that take part `[B, K]`; the others get no target.

    Returns:
      int32 `[B, K]`: the index of each slot's target, -1 where it has none.
    """
    B, K, M = costs.shape
    costs = jax.lax.stop_gradient(costs).astype(jnp.float32)
    if valid is None:
        valid = jnp.ones((B, M), bool)
    # To be given an invalid target costs every slot the same.
    price = jnp.zeros((B, M), jnp.float32)
    # More than any matching could save.
    largest = jnp.abs(costs).max((1, 2))[:, None]
    bound = 1.0 + (2 * K + 1) * largest
    if slot_mask is not None or K < M:
        num_slots = K
        if slot_mask is not None:
            num_slots = slot_mask.sum(1, keepdims=True)
        # Only as many of these as slots must go empty; else leaving a valid target
        # out could be the cheaper choice.
        spare = jnp.cumsum(~valid, 1) <= num_slots - valid.sum(1, keepdims=True)
        price = jnp.where(spare, 0.0, bound)
    costs = jnp.where(valid[:, None], costs, price[:, None])
    if slot_mask is not None:
        # Masked slots take what is left: invalid targets, if there are any.
        left = jnp.where(valid, bound, 0.0)
        costs = jnp.where(slot_mask[..., None], costs, left[:, None])

    def assign(cost):
        slot, target = optax.assignment.hungarian_algorithm(cost)
        return jnp.full(K, -1, jnp.int32).at[slot].set(target.astype(jnp.int32))

    target = jax.vmap(assign)(costs)
    matched = jnp.take_along_axis(valid, jnp.maximum(target, 0), 1)
    if slot_mask is not None:
        matched = matched & slot_mask
    return jnp.where(matched, target, -1)


def huber_set_loss(
    predictions: jax.Array, targets: jax.Array, slot_mask: jax.Array | None = None
) -> jax.Array:
    """Huber loss (delta 1) of a set of predicted properties, matched to the truth.

    Locatello et al., "Object-Centric Learning with Slot Attention" (2020), 4.2.
    A slot without object should predict zeros, as a padding row of the targets
    has them. With fewer slots than objects the best-fitting objects count.

    Args:
      predictions: `[B, K, P]`.
      targets: `[B, M, P]`; rows of zeros are padding.
      slot_mask: Slots that take part, bool `[B, K]`; all if None.

    Returns:
      float32 `[B]`: mean over slots and properties. Its mean over a batch is the
      loss to minimise.
    """
    predictions = predictions.astype(jnp.float32)
    targets = targets.astype(jnp.float32)
    valid = jnp.any(targets != 0, -1)
    fixed = jax.lax.stop_gradient(predictions)
    # [B, K, M]: what an object costs a slot beyond predicting nothing.
    costs = optax.losses.huber_loss(fixed[:, :, None], targets[:, None]).sum(-1)
    costs -= optax.losses.huber_loss(fixed).sum(-1, keepdims=True)
    target = match(costs, valid, slot_mask)
    # [B, K, P]
    matched = jnp.take_along_axis(targets, jnp.maximum(target, 0)[..., None], 1)
    matched = jnp.where(target[..., None] >= 0, matched, 0.0)
    loss = optax.losses.huber_loss(predictions, matched)
    where = None if slot_mask is None else slot_mask[..., None]
    return loss.mean((1, 2), where=where)
