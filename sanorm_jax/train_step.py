"""Training state and training step, shared by all tasks."""

from collections.abc import Callable
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax

from sanorm_jax.tasks.base import Task


@flax.struct.dataclass
class TrainState:
    """State of training, complete together with the config and the data.

    Attributes:
      step: Number of steps taken, `[]` int32. It determines the next batch.
      rng: Key of the run, `[2]` uint32. A step uses `fold_in(rng, step)`.
      failed: Whether a step was not finite, `[]` bool. The state is then frozen before
        that step.
      params: Parameters of the model.
      batch_stats: Running statistics; empty without batch norm.
      opt_state: State of the optimizer.
    """

    step: jax.Array
    rng: jax.Array
    failed: jax.Array
    params: Any
    batch_stats: Any
    opt_state: optax.OptState

    @property
    def variables(self) -> dict[str, Any]:
        """The model's variables as Flax applies them."""
        return {"params": self.params, "batch_stats": self.batch_stats}


def create_state(task: Task, tx: optax.GradientTransformation, seed: int) -> TrainState:
    """Return the state before the first step."""
    init_rng, rng = jax.random.split(jax.random.PRNGKey(seed))
    variables = task.init(init_rng)
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        rng=rng,
        failed=jnp.zeros((), bool),
        params=variables["params"],
        batch_stats=variables.get("batch_stats", {}),
        opt_state=tx.init(variables["params"]),
    )


def make_train_step(
    task: Task, tx: optax.GradientTransformation, schedule: optax.Schedule
) -> Callable:
    """Return `step(state, batch) -> (state, scalars)` for the batch of one device.

    If the loss or gradient of a step is not finite, the state is frozen before the
    step. The host checks `failed` only when it logs or saves, and can then still save
    the last finite state.
    """
    axis_name = task.axis_name

    def step(state: TrainState, batch):
        rng = jax.random.fold_in(state.rng, state.step)
        value_and_grad = jax.value_and_grad(task.loss, has_aux=True)
        (loss, (batch_stats, scalars)), grads = value_and_grad(
            state.params, state.batch_stats, batch, rng, state.step
        )
        if axis_name:
            grads, loss, scalars = jax.lax.pmean((grads, loss, scalars), axis_name)
        grad_norm = optax.global_norm(grads)
        updates, opt_state = tx.update(grads, state.opt_state, state.params)
        good = jnp.isfinite(loss) & jnp.isfinite(grad_norm) & ~state.failed
        new = (optax.apply_updates(state.params, updates), batch_stats, opt_state)
        old = (state.params, state.batch_stats, state.opt_state)
        params, batch_stats, opt_state = jax.tree.map(
            lambda n, o: jnp.where(good, n, o), new, old
        )
        scalars = scalars | {
            "loss": loss,
            "grad_norm": grad_norm,
            "learning_rate": schedule(state.step),
            "failed": ~good,
        }
        state = state.replace(
            step=state.step + good,
            failed=~good,
            params=params,
            batch_stats=batch_stats,
            opt_state=opt_state,
        )
        return state, scalars

    return step
