"""Update normalizations: how attention and values become the update of a slot.

Source: Krimmel, Achterhold, Stueckler, "Attention Normalization Impacts Cardinality
Generalization in Slot Attention" (TMLR 2024, arXiv 2407.04170), section 3.

An entry of `NORMALIZATIONS` is a function `(attention, values) -> updates`, or a Linen
module class with the same call signature:

    attention: Attention `[B, K, N]`, float32; sums to 1 over the K slots.
    values: Values of the tokens `[B, N, D]` in the compute dtype.
    updates: Updates of the slots `[B, K, D]`, float32.

A normalization that averages over slots has a third argument `mask`: the active slots
`[B, K]`, or None if all are active. The attention of inactive slots is 0.

To add a normalization, write it in this file and add it to `NORMALIZATIONS`.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from sanorm_jax.core.errors import check_name
from sanorm_jax.core.names import ALIASES

EPSILON = 1e-8  # avoids division by zero for a slot without attention
MOMENTUM = 0.9  # of the running averages; 0.1 in PyTorch's convention

Moments = tuple[jax.Array, jax.Array]


def attend(attention: jax.Array, values: jax.Array) -> jax.Array:
    """Return `sum_n attention[b, k, n] values[b, n, d]` in float32."""
    # [B, K, N] x [B, N, D] -> [B, K, D]
    return jnp.einsum(
        "bkn,bnd->bkd",
        attention.astype(values.dtype),
        values,
        preferred_element_type=jnp.float32,
    )


def weighted_mean(attention: jax.Array, values: jax.Array) -> jax.Array:
    """Divide by the slot's mass (Locatello et al., NeurIPS 2020, equation 2)."""
    weights = attention + EPSILON
    return attend(weights / weights.sum(axis=-1, keepdims=True), values)


def weighted_sum(attention: jax.Array, values: jax.Array) -> jax.Array:
    """Divide by the number of tokens N (Krimmel et al., TMLR 2024, section 3)."""
    return attend(attention, values) / attention.shape[-1]


class ScaledMean(nn.Module):
    """Weighted mean, scaled by the ratio of slots in training to current slots.

    Attributes:
      num_train_slots: Number of slots in training.
    """

    num_train_slots: int

    def __call__(
        self, attention: jax.Array, values: jax.Array, mask: jax.Array | None = None
    ) -> jax.Array:
        """Return the updates `[B, K, D]`."""
        num_slots = attention.shape[1]
        if mask is not None:
            # [B, 1, 1]
            num_slots = mask.sum(axis=1)[:, None, None]
        scale = self.num_train_slots / num_slots
        return weighted_mean(attention, values) * scale


class LayerNorm(nn.Module):
    """Layer norm over the features of each update, with scale and bias `[D]`."""

    @nn.compact
    def __call__(self, attention: jax.Array, values: jax.Array) -> jax.Array:
        """Return the normalized updates `[B, K, D]`."""
        norm = nn.LayerNorm(epsilon=1e-5, use_fast_variance=False, name="norm")
        return norm(attend(attention, values))


class _ScalarAffine(nn.Module):
    """Base of normalizations with a scalar mean, variance, scale and bias."""

    epsilon: float = 1e-5

    def _apply(self, updates: jax.Array, moments: Moments) -> jax.Array:
        scale = self.param("scale", nn.initializers.ones, ())
        bias = self.param("bias", nn.initializers.zeros, ())
        mean, variance = moments
        return (updates - mean) / jnp.sqrt(variance + self.epsilon) * scale + bias


class ImageLevel(_ScalarAffine):
    """Normalization by the mean and variance over slots and features of each image."""

    @nn.compact
    def __call__(
        self, attention: jax.Array, values: jax.Array, mask: jax.Array | None = None
    ) -> jax.Array:
        """Return the normalized updates `[B, K, D]`."""
        updates = attend(attention, values)
        where = None if mask is None else mask.astype(bool)[..., None]
        # [B, 1, 1]
        mean = updates.mean(axis=(1, 2), keepdims=True, where=where)
        variance = jnp.square(updates - mean).mean(
            axis=(1, 2), keepdims=True, where=where
        )
        return self._apply(updates, (mean, variance))


class BatchNorm(_ScalarAffine):
    """Normalization by the mean and variance over batch, slots and features.

    In training, all iterations use the moments of iteration 0, and gradients pass
    through them. They update the running averages (collection `batch_stats`) once per
    step. In evaluation, all iterations use the running averages.

    Attributes:
      axis_name: Name of the mapped axis over which the batch is split, if any.
    """

    axis_name: str | None = None

    @nn.compact
    def __call__(
        self,
        attention: jax.Array,
        values: jax.Array,
        moments: Moments | None,
        train: bool,
        mask: jax.Array | None = None,
    ) -> tuple[jax.Array, Moments]:
        """Normalize the updates of one iteration.

        Args:
          attention: Attention `[B, K, N]`, float32.
          values: Values of the tokens `[B, N, D]`.
          moments: Moments from iteration 0 of the same pass; None in iteration 0.
          train: Whether to use moments of the batch instead of running averages.
          mask: Active slots `[B, K]`; all if None.

        Returns:
          The normalized updates `[B, K, D]` and the moments used for them, which are
          the mean and the biased variance, both scalars.
        """
        updates = attend(attention, values)
        running_mean = self.variable("batch_stats", "mean", jnp.zeros, ())
        running_var = self.variable("batch_stats", "var", jnp.ones, ())
        if not train:
            moments = running_mean.value, running_var.value
        elif moments is None:
            moments = self._batch_moments(updates, mask)
            if not self.is_initializing():
                for running, new in zip(
                    (running_mean, running_var), moments, strict=True
                ):
                    new = jax.lax.stop_gradient(new)
                    running.value = MOMENTUM * running.value + (1 - MOMENTUM) * new
        return self._apply(updates, moments), moments

    def _batch_moments(self, updates: jax.Array, mask: jax.Array | None) -> Moments:
        """Return the mean and biased variance over the global batch."""
        if mask is None:
            mean = self._over_devices(updates.mean())
            return mean, self._over_devices(jnp.square(updates - mean).mean())
        # Devices may have different numbers of active slots.
        mask = mask[..., None].astype(jnp.float32)
        share = self._over_devices(mask.mean())
        mean = self._over_devices((mask * updates).mean()) / share
        squares = mask * jnp.square(updates - mean)
        return mean, self._over_devices(squares.mean()) / share

    def _over_devices(self, moment: jax.Array) -> jax.Array:
        if self.axis_name is None or self.is_initializing():
            return moment
        return jax.lax.pmean(moment, self.axis_name)


# The keys are the paper's names.
NORMALIZATIONS = {
    "weighted_mean": weighted_mean,
    "weighted_sum": weighted_sum,
    "batch_norm": BatchNorm,
    "layer_norm": LayerNorm,
    "image_level": ImageLevel,
    "scaled_mean": ScaledMean,
    "none": attend,
}


def canonical_name(name: str) -> str:
    """Return the paper's name of a normalization.

    Raises:
      UserError: The name is unknown.
    """
    check_name("update_normalization", name, [*NORMALIZATIONS, *ALIASES])
    return ALIASES.get(name, name)


def make(name: str, num_train_slots: int, axis_name: str | None = None):
    """Return a normalization; call it in a compact method of a module.

    Args:
      name: Key of `NORMALIZATIONS` or `ALIASES`.
      num_train_slots: Number of slots in training.
      axis_name: Name of the mapped axis over which the batch is split, if any.

    Returns:
      A callable `(attention, values, moments, train, mask) -> (updates, moments)`. Pass
      None as `moments` in iteration 0, and the returned moments in later iterations.
      Only batch norm uses them.

    Raises:
      UserError: The name is unknown.
    """
    normalize = NORMALIZATIONS[canonical_name(name)]
    if isinstance(normalize, type):
        given = {"num_train_slots": num_train_slots, "axis_name": axis_name}
        fields = normalize.__dataclass_fields__
        options: dict[str, Any] = {k: v for k, v in given.items() if k in fields}
        normalize = normalize(name="update_normalization", **options)
    if isinstance(normalize, BatchNorm):
        return normalize
    averages_over_slots = isinstance(normalize, ImageLevel | ScaledMean)

    def keep_moments(attention, values, moments, train, mask=None):
        options = {"mask": mask} if averages_over_slots else {}
        return normalize(attention, values, **options), moments

    return keep_moments
