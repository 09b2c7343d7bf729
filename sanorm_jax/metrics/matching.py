"""One-to-one matching of slots to objects, and the set loss that uses it."""

import jax
import jax.numpy as jnp
import optax


def match(
    costs: jax.Array,
    valid: jax.Array | None = None,
    slot_mask: jax.Array | None = None,
) -> jax.Array:
    """Match slots to targets with the minimum total cost (Hungarian algorithm).

    As many pairs as possible are matched: all valid targets if there are at least as
    many slots, and all slots otherwise. Pairs with a NaN or infinite cost are avoided
    if possible. The result has no gradient.

    Args:
      costs: Costs `[B, K, M]` of matching slot k to target m; may be negative.
      valid: Mask `[B, M]`, bool, False for padding; all are valid if None.
      slot_mask: Active slots `[B, K]`; inactive slots get no target.

    Returns:
      The index of the target of each slot `[B, K]`, int32, -1 if it has none.
    """
    B, K, M = costs.shape
    costs = jax.lax.stop_gradient(costs).astype(jnp.float32)
    if valid is None:
        valid = jnp.ones((B, M), bool)
    # Cost of an invalid target, the same for all slots.
    price = jnp.zeros((B, M), jnp.float32)
    # `bound` exceeds any possible difference between two matchings.
    largest = jnp.abs(costs).max((1, 2))[:, None]
    bound = 1.0 + (2 * K + 1) * largest
    if slot_mask is not None or K < M:
        num_slots = K
        if slot_mask is not None:
            num_slots = slot_mask.sum(1, keepdims=True)
        # Only as many invalid targets are free as slots must stay unmatched. Otherwise,
        # omitting a valid target could be cheaper.
        spare = jnp.cumsum(~valid, 1) <= num_slots - valid.sum(1, keepdims=True)
        price = jnp.where(spare, 0.0, bound)
    costs = jnp.where(valid[:, None], costs, price[:, None])
    if slot_mask is not None:
        # Inactive slots get the remaining targets, preferably invalid ones.
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
    """Return the Huber loss (delta 1) between matched predictions and targets, `[B]`.

    Source: Locatello et al., "Object-Centric Learning with Slot Attention" (NeurIPS
    2020), section 4.2. Slots without an object should predict zeros, which is also the
    content of padding. With fewer slots than objects, the objects that fit best are
    matched.

    Args:
      predictions: Property vectors `[B, K, P]`.
      targets: Property vectors `[B, M, P]`; rows of zeros are padding.
      slot_mask: Active slots, bool `[B, K]`; all if None.

    Returns:
      The mean over slots and properties `[B]`, float32.
    """
    predictions = predictions.astype(jnp.float32)
    targets = targets.astype(jnp.float32)
    valid = jnp.any(targets != 0, -1)
    fixed = jax.lax.stop_gradient(predictions)
    # [B, K, M]; cost of matching an object compared with matching none.
    costs = optax.losses.huber_loss(fixed[:, :, None], targets[:, None]).sum(-1)
    costs -= optax.losses.huber_loss(fixed).sum(-1, keepdims=True)
    target = match(costs, valid, slot_mask)
    # [B, K, P]
    matched = jnp.take_along_axis(targets, jnp.maximum(target, 0)[..., None], 1)
    matched = jnp.where(target[..., None] >= 0, matched, 0.0)
    loss = optax.losses.huber_loss(predictions, matched)
    where = None if slot_mask is None else slot_mask[..., None]
    return loss.mean((1, 2), where=where)
