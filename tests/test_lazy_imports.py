"""What computes does so without TensorFlow and clu: they come when used."""

import subprocess
import sys
import textwrap

_HIDDEN = ("tensorflow", "tensorflow_datasets", "clu")

# Takes a training step of each task with the libraries out of reach.
_WORK = """
import pathlib, sys

class Hidden:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {hidden}:
            raise ImportError(f"{{name}} is hidden")

sys.meta_path.insert(0, Hidden())

import jax, numpy as np
import benchmarks.train_step, tests.parity.models
from sanorm_jax import main, optimizers, tasks, train
from sanorm_jax.data import pipeline
from sanorm_jax.report import run_report, status
from sanorm_jax.train_step import create_state, make_train_step
from tests import tiny

data_dir = pathlib.Path(sys.argv[1])
for name in ("dinosaur", "object_discovery", "property_prediction"):
    config = tiny.config(data_dir, name)
    task = tasks.create(config, tasks.open_dataset(config))
    tx, schedule = optimizers.create(config.optimizer)
    read = task.dataset.read
    batch = {{field: read("train", field, range(2)) for field in task.train_fields}}
    batch |= {{"position": np.arange(2, dtype=np.int32)}}
    step = jax.jit(make_train_step(task, tx, schedule))
    state, scalars = step(create_state(task, tx, 0), batch)
    assert np.isfinite(scalars["loss"]), name
    (batch,) = pipeline.eval_batches(
        task.dataset, "validation", np.arange(3), fields=["image"], batch_size=4
    )
    assert batch["mask"].tolist() == [True] * 3 + [False]
print("done")
"""


def test_models_tasks_and_steps_need_no_tensorflow(data_dir):
    code = textwrap.dedent(_WORK.format(hidden=set(_HIDDEN)))
    result = subprocess.run(
        [sys.executable, "-c", code, str(data_dir)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip() == "done"
