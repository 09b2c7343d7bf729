"""The update normalizations: how a slot's update is made from its attention.

Source: Krimmel, Achterhold, Stueckler, "Attention Normalization Impacts Cardinality
Generalization in Slot Attention" (TMLR 2024, arXiv 2407.04170), section 3.

An entry of `NORMALIZATIONS` is a function `(attention, values) -> updates`, or a Linen
module class with that call:

    attention: `[B, K, N]` float32, softmax over the slots K.
    values: `[B, N, D]` in the compute dtype.
    updates: `[B, K, D]` float32.

A normalization that averages over the slots also takes `mask`, `[B, K]` or None: the
slots that take part. The attention of the others is 0.

To add a normalization, write it here and add one line to `NORMALIZATIONS`.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from sanorm_jax.core.errors import check_name
from sanorm_jax.core.names import ALIASES

EPSILON = 1e-8  # keeps a slot that attends to nothing from dividing by zero
MOMENTUM = 0.9  # of the running averages; PyTorch counts the other share, 0.1

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
    """Divide by the slot's attention mass: Locatello et al. (2020), equation 2."""
    weights = attention + EPSILON
    return attend(weights / weights.sum(axis=-1, keepdims=True), values)


def weighted_sum(attention: jax.Array, values: jax.Array) -> jax.Array:
    """Divide by the number of tokens N."""
    return attend(attention, values) / attention.shape[-1]


class ScaledMean(nn.Module):
    """Weighted mean times the number of slots in training over the number given.

    Attributes:
      num_train_slots: Number of slots that the model is trained with.
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
    """Layer norm over the features of each update, learned scale and bias `[D]`."""

    @nn.compact
    def __call__(self, attention: jax.Array, values: jax.Array) -> jax.Array:
        """Return the normalized updates `[B, K, D]`."""
        norm = nn.LayerNorm(epsilon=1e-5, use_fast_variance=False, name="norm")
        return norm(attend(attention, values))


class _ScalarAffine(nn.Module):
    """Base of the normalizers with one mean, variance, scale and bias."""

    epsilon: float = 1e-5

    def _apply(self, updates: jax.Array, moments: Moments) -> jax.Array:
        scale = self.param("scale", nn.initializers.ones, ())
        bias = self.param("bias", nn.initializers.zeros, ())
        mean, variance = moments
        return (updates - mean) / jnp.sqrt(variance + self.epsilon) * scale + bias


class ImageLevel(_ScalarAffine):
    """One mean and variance over the slots and features of each image."""

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
    """One mean and variance over batch, slots and features.

    In training, the moments of iteration 0 serve every iteration, with their gradient,
    and enter the running averages (collection `batch_stats`) once a step. Evaluation
    uses the running averages in every iteration.

    Attributes:
      axis_name: Mapped axis over which the batch is spread, if any.
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
          attention: `[B, K, N]` float32.
          values: `[B, N, D]`.
          moments: What iteration 0 of the same pass returned; None in iteration 0.
          train: Whether the moments are those of the batch.
          mask: Slots that take part `[B, K]`; all if None.

        Returns:
          The normalized updates `[B, K, D]`, and the moments that they were
          normalized by, mean and biased variance.
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
        """Return the biased moments over the batch of all devices."""
        if mask is None:
            mean = self._over_devices(updates.mean())
            return mean, self._over_devices(jnp.square(updates - mean).mean())
        # Devices may have different numbers of slots that take part.
        mask = mask[..., None].astype(jnp.float32)
        share = self._over_devices(mask.mean())
        mean = self._over_devices((mask * updates).mean()) / share
        squares = mask * jnp.square(updates - mean)
        return mean, self._over_devices(squares.mean()) / share

    def _over_devices(self, moment: jax.Array) -> jax.Array:
        if self.axis_name is None or self.is_initializing():
            return moment
        return jax.lax.pmean(moment, self.axis_name)


# By the paper's names.
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
    """Return a normalization, to be called in a module's compact method.

    Args:
      name: Key of `NORMALIZATIONS` or `ALIASES`.
      num_train_slots: Number of slots that the model is trained with.
      axis_name: Mapped axis over which the batch is spread, if any.

    Returns:
      A callable `(attention, values, moments, train, mask) -> (updates, moments)`. The
      moments are None in iteration 0; later iterations receive what iteration 0
      returned. Only batch norm uses them.

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
