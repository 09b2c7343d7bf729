"""Merging of similar slots in evaluation.

As in SOLV (Aydemir et al., "Self-supervised Object-Centric Learning for Videos",
NeurIPS 2023), the slots of an image are clustered agglomeratively by cosine distance,
up to a threshold. With complete linkage, used here, all pairs of slots in a cluster are
closer than the threshold.
"""

from typing import Any

import jax
import jax.numpy as jnp

from sanorm_jax.core.errors import UserError


def check_threshold(name: str, threshold: Any):
    """Raise `UserError` unless the threshold is a number from 0 (no merging) to 2."""
    is_number = isinstance(threshold, int | float) and not isinstance(threshold, bool)
    if not is_number or not 0 <= threshold <= 2:
        raise UserError(
            f"{name}={threshold}: must be a cosine distance; use 0 (no merging) to 2"
        )


def cluster_slots(
    slots: jax.Array, threshold: float, mask: jax.Array | None = None
) -> jax.Array:
    """Return the cluster of each slot, `[B, K]`: the index of its first slot.

    The two closest clusters are merged as long as their distance is below the
    threshold. The distance between two clusters is that of their most distant slots.
    The result is that of scikit-learn's `AgglomerativeClustering(linkage="complete",
    metric="cosine")`.

    Args:
      slots: Slots `[B, K, D]`.
      threshold: Cosine distance.
      mask: Active slots `[B, K]`; each inactive slot is a cluster of its own.
    """
    num_slots = slots.shape[1]
    length = jnp.linalg.norm(slots, axis=-1, keepdims=True)
    unit = slots / jnp.maximum(length, 1e-12)
    # [B, K, K]
    distance = 1 - jnp.einsum("bkd,bjd->bkj", unit, unit, precision="highest")
    # Each pair is considered once, and only if both slots are active.
    apart = jnp.tri(num_slots, dtype=bool)[None]
    if mask is not None:
        both = mask.astype(bool)[:, :, None] & mask.astype(bool)[:, None]
        apart = apart | ~both

    def merge_nearest(_, state):
        distance, apart, cluster = state
        candidates = jnp.where(apart, jnp.inf, distance)
        first, second = jnp.unravel_index(candidates.argmin(), candidates.shape)
        merges = candidates[first, second] < threshold
        # Complete linkage: the larger of the two distances.
        farther = jnp.maximum(distance[first], distance[second])
        merged = distance.at[first].set(farther).at[:, first].set(farther)
        gone = apart.at[second].set(True).at[:, second].set(True)
        joined = jnp.where(cluster == second, first, cluster)
        return jax.tree.map(
            lambda new, old: jnp.where(merges, new, old),
            (merged, gone, joined),
            (distance, apart, cluster),
        )

    def of_image(distance, apart):
        start = (distance, apart, jnp.arange(num_slots))
        return jax.lax.fori_loop(0, num_slots - 1, merge_nearest, start)[2]

    apart = jnp.broadcast_to(apart, distance.shape)
    return jax.vmap(of_image)(distance, apart)


def merge_slots(out: dict[str, jax.Array], threshold: float) -> dict[str, jax.Array]:
    """Return the outputs of a model with similar slots merged.

    A merged slot has the index of the first slot in its cluster. The other slots of the
    cluster become inactive. Masks and attention are summed over the cluster, slots are
    averaged, and slot images are averaged with the masks as weights. Predicted
    properties are those of the first slot.

    Args:
      out: Outputs of a `SlotModel`.
      threshold: Cosine distance, see `cluster_slots`.

    Returns:
      The outputs in the same shapes, and the active slots `slot_mask`, bool `[B, K]`.
    """
    slots = out["slots"]
    mask = out.get("slot_mask", jnp.ones(slots.shape[:2], bool))
    cluster = cluster_slots(slots, threshold, mask)
    num_slots = slots.shape[1]
    # [B, K, K]: whether slot j belongs to cluster k
    member = cluster[:, None, :] == jnp.arange(num_slots)[:, None]
    member = (member & mask[:, None, :]).astype(jnp.float32)
    slot_mask = member.any(axis=2)

    def add_up(x):
        """Return the sum `[B, K, ...]` over the slots of each cluster."""
        flat = x.reshape(*x.shape[:2], -1)
        total = jnp.einsum("bkj,bjx->bkx", member, flat, precision="highest")
        return total.reshape(x.shape)

    size = jnp.maximum(member.sum(axis=2, keepdims=True), 1)
    merged = {"slots": add_up(slots) / size, "slot_mask": slot_mask}
    for name in {"masks", "attention"} & out.keys():
        merged[name] = add_up(out[name])
    if "slot_reconstructions" in out:
        weights = out["masks"][..., None] + 1e-12
        images = add_up(weights * out["slot_reconstructions"])
        merged["slot_reconstructions"] = images / jnp.maximum(add_up(weights), 1e-12)
    if "predicted_properties" in out:
        merged["predicted_properties"] = (
            out["predicted_properties"] * slot_mask[..., None]
        )
    return out | merged
