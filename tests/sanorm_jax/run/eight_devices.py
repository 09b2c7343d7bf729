"""Comparison of steps on 8 devices and on one, run by `test_devices.py`.

`python -m tests.sanorm_jax.run.eight_devices FOLDER TASK.NORMALIZATION ...`, with
`XLA_FLAGS=--xla_force_host_platform_device_count=8`. A name that ends in `.pmap` leaves
out the comparison with `jit` over a sharded batch.
"""

import pathlib
import sys

import jax
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from sanorm_jax import optimizers, tasks
from sanorm_jax.core.errors import UserError
from sanorm_jax.data import pipeline
from sanorm_jax.evaluate import Evaluator
from sanorm_jax.run.distribution.devices import Devices
from sanorm_jax.train_step import create_state, make_train_step
from sanorm_jax.trained import Setting
from tests import tiny

STEPS = 3
# Rounding of float32 sums of 8 parts instead of one, over 3 steps.
TOLERANCE = 2e-5


class _Sharded(Devices):
    """One program under `jit` whose inputs are sharded over all devices."""

    def __init__(self):
        super().__init__("jit")
        self._mesh = jax.sharding.Mesh(np.array(jax.devices()), ("batch",))

    def put_state(self, state):
        return jax.device_put(state, NamedSharding(self._mesh, PartitionSpec()))

    def put_batch(self, batch):
        spec = PartitionSpec("batch")
        return jax.device_put(batch, NamedSharding(self._mesh, spec))


def run(config, devices: Devices) -> dict[str, np.ndarray]:
    """Return all results of training and evaluation, by name."""
    dataset = tasks.open_dataset(config)
    task = tasks.create(config, dataset, devices.axis_name)
    tx, schedule = optimizers.create(config.optimizer)
    state = devices.put_state(create_state(task, tx, config.seed))
    step = devices.compile_train_step(make_train_step(task, tx, schedule))
    batches = pipeline.train_batches(
        dataset,
        "train",
        pipeline.select(dataset, "train"),
        fields=task.train_fields,
        batch_size=config.batch_size,
        seed=config.seed,
        start_step=0,
        num_steps=STEPS,
    )
    result = {}
    for number, batch in enumerate(batches):
        old, batch = state, devices.put_batch(batch)
        # Only the batch is copied to the devices, and the state is donated.
        with jax.transfer_guard("disallow"):
            state, scalars = step(old, batch)
        assert all(leaf.is_deleted() for leaf in jax.tree.leaves(old))
        result |= {f"step {number} {k}": np.asarray(v) for k, v in scalars.items()}
    for path, leaf in jax.tree_util.tree_leaves_with_path(devices.get_state(state)):
        result[jax.tree_util.keystr(path)] = np.asarray(leaf)
    evaluator = Evaluator(task, devices)
    table = evaluator.run(state.variables, "validation", Setting(5, 2))
    result |= {"index": table.index} | table.columns()
    indices = evaluator.select("validation")
    table = evaluator.run_baselines("validation", num_slots=[3], indices=indices)
    return result | {f"baseline {k}": v for k, v in table.columns().items()}


def check(config, *, sharded: bool) -> str:
    """Compare the results and return the largest differences."""
    alone = run(config, Devices("jit"))
    assert len(alone["index"]) == tiny.SPLITS["validation"]
    several = {"pmap": Devices("auto")}
    if sharded:
        several["sharded"] = _Sharded()
    worst = ""
    for name, devices in several.items():
        assert devices.num_devices == (8 if name == "pmap" else 1)
        spread = run(config, devices)
        assert alone.keys() == spread.keys()
        maximum = 0.0
        for key, expected in alone.items():
            np.testing.assert_allclose(
                spread[key], expected, TOLERANCE, TOLERANCE, err_msg=f"{name} {key}"
            )
            difference = np.abs(spread[key].astype(float) - expected)
            maximum = max(maximum, float(difference.max(initial=0.0)))
        worst += f" {name} {maximum:.1e}"
    return worst


def _main(folder: str, names: list[str]):
    assert jax.device_count() == 8
    for name in names:
        task, normalization, *only = name.split(".")
        config = tiny.config(
            pathlib.Path(folder),
            task,
            update_normalization=normalization,
            # With a small epsilon, Adam would amplify rounding errors.
            optimizer__epsilon=1e-3,
            optimizer__learning_rate=1e-2,
        )
        sys.stdout.write(f"{name}:{check(config, sharded=not only)}\n")
        sys.stdout.flush()
    try:
        Devices("auto").check_batch_size("batch_size", 12)
    except UserError as error:
        sys.stdout.write(f"{error}\n")


if __name__ == "__main__":
    _main(sys.argv[1], sys.argv[2:])
