"""Slot masks: which slots of an image take part.

A mask is `[B, K]`, True (or 1) for the slots that take part. A masked slot receives no
attention and no decoder mass, so the others are what they are without it.
"""

import jax
import jax.core
import jax.numpy as jnp

from sanorm_jax.core.errors import UserError

# Finite, so that gradients of sums over masked logits stay finite.
_LOW = -1e9


def check(mask: jax.Array, batch_size: int, num_slots: int):
    """Raise `UserError` for a mask of another shape, or of an image without a slot.

    Under `jit`, where values are unknown, only the shape is checked.
    """
    if mask.shape != (batch_size, num_slots):
        raise UserError(
            f"mask: has shape {mask.shape}, need {(batch_size, num_slots)}; give a "
            "value for each slot of each image"
        )
    if not isinstance(mask, jax.core.Tracer) and not mask.astype(bool).any(1).all():
        image = int(jnp.argmin(mask.astype(bool).any(1)))
        raise UserError(f"mask: leaves no slot of image {image}; keep at least one")


def mask_logits(logits: jax.Array, mask: jax.Array | None) -> jax.Array:
    """Return logits `[B, K, ...]`, those of masked slots so low that they vanish."""
    if mask is None:
        return logits
    return jnp.where(_expand(mask, logits).astype(bool), logits, _LOW)


def softmax(logits: jax.Array, mask: jax.Array | None) -> jax.Array:
    """Return the softmax over the slots that take part.

    `mask[k] exp(logits[k]) / sum_j mask[j] exp(logits[j])`, as in the masked decoder of
    AdaSlot (Fan et al., CVPR 2024). It is differentiable in the mask.

    Args:
      logits: `[B, K, ...]`.
      mask: `[B, K]`; None for all slots.
    """
    if mask is None:
        return jax.nn.softmax(logits, axis=1)
    highest = mask_logits(logits, mask).max(axis=1, keepdims=True)
    # Above the highest that takes part there are masked ones only; they may overflow.
    exponent = jnp.minimum(logits - jax.lax.stop_gradient(highest), 0.0)
    weights = _expand(mask, logits).astype(logits.dtype) * jnp.exp(exponent)
    return weights / weights.sum(axis=1, keepdims=True)


def renormalize(maps: jax.Array, mask: jax.Array) -> jax.Array:
    """Return maps `[B, K, ...]` of the slots that take part, again 1 over the slots.

    Where these have nothing, they share equally.
    """
    mask = _expand(mask, maps).astype(maps.dtype)
    kept = maps * mask
    total = kept.sum(axis=1, keepdims=True)
    equal = mask / mask.sum(axis=1, keepdims=True)
    return jnp.where(total > 1e-12, kept / jnp.maximum(total, 1e-12), equal)


def _expand(mask: jax.Array, like: jax.Array) -> jax.Array:
    """Return the mask with as many axes as another array."""
    return mask.reshape(*mask.shape, *(1,) * (like.ndim - 2))
