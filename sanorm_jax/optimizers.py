"""Optimizers and schedules of the original implementation.

Learning rate and loss weight are functions of the step, so resuming needs no further
state.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from sanorm_jax.core import fields
from sanorm_jax.core.errors import UserError, check_name

# Fraction of the base rate at the end of a cosine decay.
COSINE_END = 0.1

Schedule = Callable[[jax.Array | int], jax.Array]


def warmup_decay(
    learning_rate: float,
    warmup_steps: int,
    half_life_steps: int,
    warmup_start: float = 0.0,
) -> Schedule:
    """Return a schedule of linear warm-up and exponential decay.

    At step t it is `base (s + (1 - s) t / W)` for t < W, then `base 0.5^((t - W) / H)`.

    Args:
      learning_rate: Base rate, reached after the warm-up.
      warmup_steps: Length W of the warm-up; 0 for none.
      half_life_steps: Number H of steps that halve the rate; 0 for no decay.
      warmup_start: Fraction s of the base rate at step 0.
    """

    def schedule(step):
        step = jnp.asarray(step, jnp.float32)
        progress = step / max(warmup_steps, 1)
        warmup = warmup_start + (1 - warmup_start) * progress
        decay = 0.5 ** (
            (step - warmup_steps) / half_life_steps if half_life_steps else 0
        )
        return learning_rate * jnp.where(step < warmup_steps, warmup, decay)

    return schedule


def piecewise_linear(knots: float | Sequence[Sequence[float]]) -> Schedule:
    """Return a constant schedule, or one that is linear between knots.

    Args:
      knots: Number, or pairs `(step, value)` with increasing steps. The schedule is
        constant before the first and after the last knot.

    Raises:
      UserError: The knots are not pairs, or their steps do not increase.
    """
    if isinstance(knots, int | float):
        return optax.constant_schedule(float(knots))
    message = f"schedule {knots!r}: use a number or pairs (step, value), steps rising"
    try:
        table = np.asarray(knots, np.float32)
    except (TypeError, ValueError) as error:
        raise UserError(message) from error
    if table.ndim != 2 or table.shape[1] != 2 or (np.diff(table[:, 0]) <= 0).any():
        raise UserError(message)
    steps, values = table.T
    return lambda step: jnp.interp(jnp.asarray(step, jnp.float32), steps, values)


def scale_by_adam_tf(eps: float) -> optax.GradientTransformation:
    """Return Adam's scaling with TensorFlow's epsilon.

    Epsilon is added to the root of the second moment before bias correction: "epsilon
    hat" of Kingma and Ba, "Adam" (ICLR 2015), end of section 2.
    """
    b1, b2 = 0.9, 0.999

    def init(params):
        return optax.ScaleByAdamState(
            count=jnp.zeros([], jnp.int32),
            mu=optax.tree.zeros_like(params),
            nu=optax.tree.zeros_like(params),
        )

    def update(updates, state, params=None):
        del params
        mu = optax.tree.update_moment(updates, state.mu, b1, 1)
        nu = optax.tree.update_moment_per_elem_norm(updates, state.nu, b2, 2)
        count = optax.safe_increment(state.count)
        correction = jnp.sqrt(1 - b2**count) / (1 - b1**count)
        updates = jax.tree.map(
            lambda m, v: correction * m / (jnp.sqrt(v) + eps), mu, nu
        )
        return updates, optax.ScaleByAdamState(count, mu, nu)

    return optax.GradientTransformation(init, update)


# Functions from epsilon to the scaling of the gradient, by name.
OPTIMIZERS = {
    "adam_tf": scale_by_adam_tf,
    "adam": lambda eps: optax.scale_by_adam(eps=eps),
    # As in PyTorch: its decay, and epsilon outside the root.
    "rmsprop": lambda eps: optax.scale_by_rms(decay=0.99, eps=eps, eps_in_sqrt=False),
    "sgd": lambda eps: optax.identity(),
}


def create(config: Any) -> tuple[optax.GradientTransformation, Schedule]:
    """Return the optimizer and its learning rate schedule.

    Args:
      config: Options `name` (key of `OPTIMIZERS`), `learning_rate`, `warmup_steps`,
        `warmup_start`, `half_life_steps` (0: no decay), `cosine_steps` (end of a cosine
        decay; 0: none), `epsilon` and `clip_norm` (maximum global norm of the gradient;
        0: no clipping).

    Raises:
      UserError: The name is unknown, or a number is out of range.
    """
    check_name("config.optimizer.name", config.name, OPTIMIZERS)
    fields.check(config, "config.optimizer")
    cosine_steps = config.cosine_steps
    if cosine_steps:
        if config.half_life_steps or not cosine_steps > config.warmup_steps:
            raise UserError(
                f"config.optimizer.cosine_steps={cosine_steps}: must be above "
                "config.optimizer.warmup_steps, and config.optimizer.half_life_steps 0"
            )
        # Loshchilov and Hutter, "SGDR" (ICLR 2017), equation 5, without restarts.
        schedule = optax.warmup_cosine_decay_schedule(
            init_value=0.0 if config.warmup_steps else config.learning_rate,
            peak_value=config.learning_rate,
            warmup_steps=config.warmup_steps,
            decay_steps=cosine_steps,
            end_value=COSINE_END * config.learning_rate,
        )
    else:
        schedule = warmup_decay(
            config.learning_rate,
            config.warmup_steps,
            config.half_life_steps,
            config.warmup_start,
        )
    clip = optax.clip_by_global_norm(config.clip_norm)
    tx = optax.chain(
        clip if config.clip_norm else optax.identity(),
        OPTIMIZERS[config.name](config.epsilon),
        optax.scale_by_learning_rate(schedule),
    )
    return tx, schedule
