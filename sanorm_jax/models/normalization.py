"""The update normalizations: how a slot's update is made from its attention.

Source: Krimmel, Achterhold, Stueckler, "Attention Normalization Impacts
Cardinality Generalization in Slot Attention" (TMLR 2024, arXiv 2407.04170),
section 3. An entry of the registry is a function or a Linen module called as
`normalize(attention, values, step)`:

    attention: `[B, K, N]` float32, softmax over the slots K.
    values: `[B, N, D]` in the compute dtype.
    step: a `Step`.
    returns: updates `[B, K, D]` float32.

To add a normalization, write it here and add one line to `NORMALIZATIONS`.
"""

import dataclasses
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from sanorm_jax.errors import ConfigError

EPSILON = 1e-8  # keeps a slot that attends to nothing from dividing by zero
MOMENTUM = 0.9  # of the running averages; PyTorch counts the other share, 0.1


@dataclasses.dataclass
class Step:
    """What a normalization may know of the iteration that it serves.

    Attributes:
      iteration: number of the iteration, from 0.
      train: whether batch statistics are used.
      num_train_slots: number of slots that the model was trained with.
      memory: what one iteration leaves for the later ones of the same pass.
    """

    iteration: int
    train: bool
    num_train_slots: int
    memory: dict[str, Any] = dataclasses.field(default_factory=dict)


def weighted_sum(attention: jax.Array, values: jax.Array) -> jax.Array:
    """Return `sum_n attention[b, k, n] values[b, n, d]` in float32."""
    # [B, K, N] x [B, N, D] -> [B, K, D]
    return jnp.einsum(
        "bkn,bnd->bkd",
        attention.astype(values.dtype),
        values,
        preferred_element_type=jnp.float32,
    )


def none(attention: jax.Array, values: jax.Array, step: Step) -> jax.Array:
    """Sum the values, weighted by the attention as it is."""
    del step
    return weighted_sum(attention, values)


def mean(attention: jax.Array, values: jax.Array, step: Step) -> jax.Array:
    """Weighted mean, the baseline of Locatello et al. (2020), equation 2."""
    del step
    weights = attention + EPSILON
    return weighted_sum(weights / weights.sum(axis=-1, keepdims=True), values)


def constant(attention: jax.Array, values: jax.Array, step: Step) -> jax.Array:
    """Weighted sum: the attention divided by the number of tokens."""
    del step
    return weighted_sum(attention, values) / attention.shape[-1]


def scaled_mean(attention: jax.Array, values: jax.Array, step: Step) -> jax.Array:
    """Weighted mean, scaled by slots in training over slots given."""
    return mean(attention, values, step) * (step.num_train_slots / attention.shape[1])


class LayerNorm(nn.Module):
    """Layer norm over the features of each update, learned scale and bias `[D]`."""

    @nn.compact
    def __call__(self, attention, values, step: Step):
        """Return the normalized updates `[B, K, D]`."""
        del step
        norm = nn.LayerNorm(epsilon=1e-5, use_fast_variance=False, name="norm")
        return norm(weighted_sum(attention, values))


class _ScalarAffine(nn.Module):
    """Base of the normalizers with one mean, variance, scale and bias."""

    epsilon: float = 1e-5

    def _apply(self, updates, moments):
        scale = self.param("scale", nn.initializers.ones, ())
        bias = self.param("bias", nn.initializers.zeros, ())
        mean_, variance = moments
        return (updates - mean_) / jnp.sqrt(variance + self.epsilon) * scale + bias


class ImageLevel(_ScalarAffine):
    """One mean and variance over the slots and features of each image."""

    @nn.compact
    def __call__(self, attention, values, step: Step):
        """Return the normalized updates `[B, K, D]`."""
        del step
        updates = weighted_sum(attention, values)
        # [B, 1, 1]
        mean_ = updates.mean(axis=(1, 2), keepdims=True)
        variance = jnp.square(updates - mean_).mean(axis=(1, 2), keepdims=True)
        return self._apply(updates, (mean_, variance))


class ScalarBatchNorm(_ScalarAffine):
    """One mean and variance over batch, slots and features.

    In training the statistics of iteration 0 serve every iteration, with their
    gradient, and enter the running averages (collection `batch_stats`) once a
    step; evaluation uses the running averages in every iteration.

    Attributes:
      axis_name: mapped axis over which the batch is spread, if any.
    """

    axis_name: str | None = None

    @nn.compact
    def __call__(self, attention, values, step: Step):
        """Return the normalized updates `[B, K, D]`."""
        updates = weighted_sum(attention, values)
        running_mean = self.variable("batch_stats", "mean", jnp.zeros, ())
        running_var = self.variable("batch_stats", "var", jnp.ones, ())
        if not step.train:
            return self._apply(updates, (running_mean.value, running_var.value))
        if "moments" not in step.memory:
            moments = self._batch_moments(updates)
            step.memory["moments"] = moments
            if not self.is_initializing():
                for running, new in zip(
                    (running_mean, running_var), moments, strict=True
                ):
                    new = jax.lax.stop_gradient(new)
                    running.value = MOMENTUM * running.value + (1 - MOMENTUM) * new
        return self._apply(updates, step.memory["moments"])

    def _batch_moments(self, updates):
        """Return the biased moments over the batch of all devices."""
        global_mean = self._over_devices(updates.mean())
        return global_mean, self._over_devices(jnp.square(updates - global_mean).mean())

    def _over_devices(self, moment):
        if self.axis_name is None or self.is_initializing():
            return moment
        return jax.lax.pmean(moment, self.axis_name)


# The reference's own names.
NORMALIZATIONS = {
    "mean": mean,
    "constant": constant,
    "none": none,
    "scaled_mean": scaled_mean,
    "layer_norm": LayerNorm,
    "image_level": ImageLevel,
    "scalar_batch_norm_single": ScalarBatchNorm,
}
# The paper's names.
ALIASES = {
    "weighted_mean": "mean",
    "weighted_sum": "constant",
    "batch_norm": "scalar_batch_norm_single",
}


def canonical_name(name: str) -> str:
    """Return the registry's name for `name`; ConfigError where there is none."""
    canonical = ALIASES.get(name, name)
    if canonical not in NORMALIZATIONS:
        valid = ", ".join([*NORMALIZATIONS, *ALIASES])
        raise ConfigError(
            f"update_normalization={name!r} is unknown; use one of {valid}"
        )
    return canonical


def make(name: str, axis_name: str | None = None):
    """Return the normalization `name`, to be called in a module's compact method.

    Args:
      name: a name or alias of the registry.
      axis_name: mapped axis over which the batch is spread, for batch norm.

    Returns:
      A callable `(attention, values, step) -> updates`.

    Raises:
      ConfigError: the name is unknown.
    """
    entry = NORMALIZATIONS[canonical_name(name)]
    if not isinstance(entry, type):
        return entry
    has_axis = hasattr(entry, "axis_name")
    options: dict[str, Any] = {"axis_name": axis_name} if has_axis else {}
    return entry(name="update_normalization", **options)
