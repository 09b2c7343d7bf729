import jax
import numpy as np
import pytest
from jax.lax import Precision

from sanorm_jax import optimizers, tasks
from sanorm_jax.models import convolution
from sanorm_jax.train_step import create_state, make_train_step
from tests import tiny


def _precisions(jaxpr) -> set:
    """Return the precisions of all products of a program, the gradient's too."""
    found = set()
    for equation in jaxpr.eqns:
        if equation.primitive.name in ("dot_general", "conv_general_dilated"):
            found |= set(equation.params["precision"] or [None])
        for inner in jax.core.jaxprs_in_params(equation.params):
            found |= _precisions(inner)
    return found


def _step_and_evaluation(config):
    task = tasks.create(config, tasks.open_dataset(config))
    tx, schedule = optimizers.create(config.optimizer)
    state = create_state(task, tx, 0)
    ids = np.arange(8, dtype=np.int32)
    read = task.dataset.read
    batch = {f: read("train", f, ids) for f in task.train_fields} | {"position": ids}
    yield jax.make_jaxpr(make_train_step(task, tx, schedule))(state, batch)
    batch = {f: read("train", f, ids) for f in task.evaluation_fields} | {"index": ids}
    yield jax.make_jaxpr(lambda v: task.predict(v, batch, state.rng, 5, 2))(
        state.variables
    )


@pytest.mark.parametrize("name", tasks.TASKS)
@pytest.mark.parametrize("precision", ["default", "highest"])
def test_all_products_have_the_configured_precision(
    name, precision, data_dir, monkeypatch
):
    # As on GPUs: CPUs, whose convolutions are tuned, have one precision.
    monkeypatch.setattr(convolution, "tuned_for_cpu", lambda: False)
    config = tiny.config(data_dir, name, matmul_precision=precision)
    expected = {"default": Precision.DEFAULT, "highest": Precision.HIGHEST}
    step, predict = _step_and_evaluation(config)
    assert _precisions(step.jaxpr) == {expected[precision]}
    # `jax.image.resize` computes in true float32 itself.
    found = _precisions(predict.jaxpr) - {Precision.HIGHEST}
    assert found == {expected[precision]} - {Precision.HIGHEST}
