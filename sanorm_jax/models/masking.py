"""Slot masks, which deactivate some slots of an image.

A mask `[B, K]` is True (or 1) for active slots. An inactive slot has no attention and
no decoder mask. The active slots are therefore the same as without it.
"""

import jax
import jax.core
import jax.numpy as jnp

from sanorm_jax.core.errors import UserError

# Finite, so that gradients of sums over masked logits stay finite.
_LOW = -1e9


def check(mask: jax.Array, batch_size: int, num_slots: int):
    """Raise `UserError` for a wrong shape or an image without active slots.

    Under `jit`, where values are unknown, only the shape is checked.
    """
    if mask.shape != (batch_size, num_slots):
        raise UserError(
            f"mask: has shape {mask.shape}, not {(batch_size, num_slots)}; pass one "
            "value for each slot of each image"
        )
    if not isinstance(mask, jax.core.Tracer) and not mask.astype(bool).any(1).all():
        image = int(jnp.argmin(mask.astype(bool).any(1)))
        raise UserError(f"mask: image {image} has no active slot; keep at least one")


def mask_logits(logits: jax.Array, mask: jax.Array | None) -> jax.Array:
    """Return logits `[B, K, ...]`, with a very low value for inactive slots."""
    if mask is None:
        return logits
    return jnp.where(_expand(mask, logits).astype(bool), logits, _LOW)


def softmax(logits: jax.Array, mask: jax.Array | None) -> jax.Array:
    """Return the softmax over the active slots.

    It is `mask[k] exp(logits[k]) / sum_j mask[j] exp(logits[j])`, as in the masked
    decoder of AdaSlot (Fan et al., CVPR 2024), and differentiable in the mask.

    Args:
      logits: Logits `[B, K, ...]`.
      mask: Active slots `[B, K]`; all if None.
    """
    if mask is None:
        return jax.nn.softmax(logits, axis=1)
    highest = mask_logits(logits, mask).max(axis=1, keepdims=True)
    # Only logits of inactive slots exceed `highest`. Without the limit, they overflow.
    exponent = jnp.minimum(logits - jax.lax.stop_gradient(highest), 0.0)
    weights = _expand(mask, logits).astype(logits.dtype) * jnp.exp(exponent)
    return weights / weights.sum(axis=1, keepdims=True)


def renormalize(maps: jax.Array, mask: jax.Array) -> jax.Array:
    """Normalize maps `[B, K, ...]` to sum to 1 over the active slots.

    Where the maps of all active slots are 0, these slots get equal values.
    """
    mask = _expand(mask, maps).astype(maps.dtype)
    kept = maps * mask
    total = kept.sum(axis=1, keepdims=True)
    equal = mask / mask.sum(axis=1, keepdims=True)
    return jnp.where(total > 1e-12, kept / jnp.maximum(total, 1e-12), equal)


def _expand(mask: jax.Array, like: jax.Array) -> jax.Array:
    """Return the mask `[B, K]` with trailing axes, to broadcast with `like`."""
    return mask.reshape(*mask.shape, *(1,) * (like.ndim - 2))
