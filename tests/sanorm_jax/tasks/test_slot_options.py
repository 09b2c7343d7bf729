"""The options of slots are options of every task."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from sanorm_jax import tasks
from sanorm_jax.core.errors import UserError
from sanorm_jax.train_step import create_state
from tests import tiny

TASKS = ("dinosaur", "object_discovery", "property_prediction")


def _task(data_dir, name, **changes):
    config = tiny.config(data_dir, name, **changes)
    dataset = tasks.open_dataset(config)
    task = tasks.create(config, dataset)

    def batch(split, fields, **more):
        count = np.arange(4)
        return {field: dataset.read(split, field, count) for field in fields} | more

    return task, batch


@pytest.mark.parametrize("name", TASKS)
@pytest.mark.parametrize(
    "changes",
    [
        {"model__adaptive": True, "keep_penalty": ((0, 0.1),)},
        {"merge_threshold": 0.5},
        {"model__attention": "sinkhorn_learned", "model__num_heads": 2},
        {"model__slot_init": "tokens"},
        {"model__slot_init": "bo_qsa"},
    ],
)
def test_every_task_takes_each_option(data_dir, name, changes):
    task, batch = _task(data_dir, name, **changes)
    ids = np.arange(4, dtype=np.int32)
    state = jax.eval_shape(lambda: create_state(task, optax.identity(), 0))
    loss, (_, scalars) = jax.eval_shape(
        task.loss,
        state.params,
        state.batch_stats,
        batch("train", task.train_fields, position=ids),
        jax.random.key(0),
        0,
    )
    assert loss.shape == ()
    assert ("kept_slots" in scalars) == ("model__adaptive" in changes)
    values = jax.eval_shape(
        lambda variables, batch: task.evaluate(
            variables, batch, jax.random.key(0), num_slots=4, num_iterations=2
        ),
        state.variables,
        batch("validation", task.evaluation_fields, index=ids),
    )
    assert values["slot_entropy_attention"].shape == (4,)


def test_keep_penalty_is_the_expected_number_of_slots(data_dir):
    def loss(weight):
        task, batch = _task(
            data_dir, "dinosaur", model__adaptive=True, keep_penalty=((0, weight),)
        )
        state = create_state(task, optax.identity(), 0)
        given = batch("train", task.train_fields, position=np.arange(4))
        value, (_, scalars) = task.loss(
            state.params, state.batch_stats, given, jax.random.key(0), 0
        )
        return value, scalars["mse"]

    (without, mse), (penalized, _) = loss(0.0), loss(0.5)
    assert without == mse
    # At first nearly all of the four slots are kept.
    assert 0.5 * 3 < penalized - without <= 0.5 * 4


def test_merging_all_slots_gives_one_segment(data_dir):
    found = {}
    for threshold in (0.0, 2.0):
        task, batch = _task(data_dir, "dinosaur", merge_threshold=threshold)
        variables = task.init(jax.random.key(0))
        given = batch("validation", task.evaluation_fields, index=np.arange(4))
        found[threshold] = task.evaluate(variables, given, jax.random.key(0), 4, 2)
    np.testing.assert_array_equal(found[2.0]["empty_slots_masks"], jnp.zeros(4))
    np.testing.assert_allclose(found[2.0]["slot_entropy_masks"], 0.0, atol=1e-5)
    assert (found[0.0]["slot_entropy_masks"] > 0.5).all()
    np.testing.assert_allclose(found[2.0]["mse"], found[0.0]["mse"])


def test_a_threshold_out_of_range_is_an_error(data_dir):
    with pytest.raises(UserError, match=r"config\.merge_threshold=3\.0: must be"):
        _task(data_dir, "dinosaur", merge_threshold=3.0)


def test_a_masked_slot_changes_neither_average_precision_nor_its_loss(
    data_dir, monkeypatch
):
    task, batch = _task(data_dir, "property_prediction")
    batch = batch("validation", task.evaluation_fields, index=np.arange(4))
    rng = np.random.default_rng(0)
    # Each slot predicts an object, some nearer than others; so do those masked below.
    predictions = np.array(batch["properties"][:, [0, 1, 0, 1]], np.float32)
    predictions[..., -4:-1] += rng.normal(size=(4, 4, 3)) * 0.1
    predictions[..., -1] = rng.random((4, 4))
    out = {
        "predicted_properties": jnp.asarray(predictions),
        "attention": jax.nn.softmax(rng.normal(size=(4, 4, 16)), axis=1),
    }
    mask = np.arange(4) != np.array([[0], [1], [2], [3]])

    def evaluate(out):
        monkeypatch.setattr(task, "forward", lambda *_: out)
        values = task.evaluate({}, batch, None, out["attention"].shape[1], 2)
        found = task.summarize({k: np.asarray(v) for k, v in values.items()})
        names = [name for name in found if name.startswith("ap_")]
        assert len(names) == 5
        return [*np.asarray(values["huber"]), *(found[name] for name in names)]

    kept = {k: v[mask].reshape(4, 3, *v.shape[2:]) for k, v in out.items()}
    expected = evaluate(kept)
    found = evaluate(out | {"slot_mask": jnp.asarray(mask)})
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    # Without the mask, the losses and average precision at any distance differ.
    assert not np.isclose(evaluate(out), expected)[:5].any()
