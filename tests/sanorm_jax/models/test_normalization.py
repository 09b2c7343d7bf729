import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sanorm_jax.core.errors import UserError
from sanorm_jax.models import normalization
from sanorm_jax.models.slot_attention import SlotAttention
from tests.sanorm_jax.models.variables import random_variables

NAMES = [*normalization.NORMALIZATIONS]


def _inputs(shape=(4, 9, 6), seed=0):
    return jax.random.normal(jax.random.key(seed), shape)


def _noise(num_slots, batch_size=4, slot_dim=8, seed=1):
    return jax.random.normal(jax.random.key(seed), (batch_size, num_slots, slot_dim))


def _model(name, **options):
    return SlotAttention(3, 8, hidden_dim=16, update_normalization=name, **options)


def _variables(model, inputs, seed=2):
    rngs = {"params": jax.random.key(seed), "slots": jax.random.key(seed)}
    return model.init(rngs, inputs, train=True)


@pytest.mark.parametrize("name", NAMES)
def test_jit_vmap_over_seeds_and_bfloat16(name):
    """One compiled step over seeds: finite, and in bfloat16 near float32."""
    inputs, noise = _inputs(), _noise(3)
    exact, rounded = (
        _model(name, num_iterations=2, dtype=dtype)
        for dtype in (jnp.float32, jnp.bfloat16)
    )
    seeds = [random_variables(exact, inputs, train=True, seed=i) for i in range(3)]
    variables = jax.tree.map(lambda *leaves: np.stack(leaves), *seeds)

    options = {"train": True, "noise": noise, "mutable": ["batch_stats"]}

    def step(model, variables):
        def loss(params):
            given = {**variables, "params": params}
            out, updated = model.apply(given, inputs, **options)
            return jnp.square(out[0]).mean(), (out, updated)

        grads, (out, updated) = jax.grad(loss, has_aux=True)(variables["params"])
        return out, updated, grads

    high = jax.jit(jax.vmap(functools.partial(step, exact)))(variables)
    low = jax.jit(jax.vmap(functools.partial(step, rounded)))(variables)
    for leaf in jax.tree.leaves((high, low)):
        assert leaf.dtype == jnp.float32
        assert np.isfinite(leaf).all()
    (slots, attention), _, _ = high
    np.testing.assert_allclose(attention.sum(axis=2), 1, rtol=1e-5)
    # bfloat16 keeps 8 bits: some parts in a hundred after two iterations.
    np.testing.assert_allclose(low[0][0], slots, atol=0.05 * np.abs(slots).max())
    np.testing.assert_allclose(low[0][1], attention, atol=0.05)
    # The second seed by itself gives the same.
    alone, _ = exact.apply(
        seeds[1], inputs, train=True, noise=noise, mutable=["batch_stats"]
    )
    np.testing.assert_allclose(alone[0], slots[1], rtol=1e-4, atol=1e-4)


def _updates(name, attention, values, variables=None, train=True, **options):
    """Apply a normalization alone, as in iteration 0; batch norm's averages beside."""
    entry = normalization.NORMALIZATIONS[name]
    if not isinstance(entry, type):
        return entry(attention, values)
    inputs = (attention, values)
    if name == "batch_norm":
        inputs = (attention, values, None, train)
    if name == "scaled_mean":
        options["num_train_slots"] = 3
    module = entry(**options)
    if variables is None:
        variables = module.init(jax.random.key(0), *inputs)
    out, updated = module.apply(variables, *inputs, mutable=["batch_stats"])
    if name == "batch_norm":
        return out[0], updated["batch_stats"]
    return out


@pytest.fixture
def attention():
    return jax.nn.softmax(3 * _inputs((2, 5, 7), seed=3), axis=1)


@pytest.fixture
def values():
    return _inputs((2, 7, 4), seed=4) + 2


def test_normalizations_match_their_definitions(attention, values):
    plain = np.einsum("bkn,bnd->bkd", attention, values)
    shares = np.asarray(attention) / np.asarray(attention).sum(axis=2, keepdims=True)
    mean = np.einsum("bkn,bnd->bkd", shares, values)
    expected = {
        "none": plain,
        "weighted_sum": plain / 7,
        "weighted_mean": mean,
        "scaled_mean": mean * 3 / 5,
    }
    for name, value in expected.items():
        np.testing.assert_allclose(
            _updates(name, attention, values), value, rtol=1e-5, err_msg=name
        )


def test_layer_norm_has_unit_moments_for_each_slot(attention, values):
    updates = _updates("layer_norm", attention, values)
    np.testing.assert_allclose(updates.mean(axis=2), 0, atol=1e-5)
    np.testing.assert_allclose(updates.std(axis=2), 1, rtol=1e-2)


def test_image_level_has_unit_moments_for_each_image(attention, values):
    updates = _updates("image_level", attention, values)
    np.testing.assert_allclose(updates.mean(axis=(1, 2)), 0, atol=1e-5)
    np.testing.assert_allclose(updates.std(axis=(1, 2)), 1, rtol=1e-3)
    # The shape within the image is kept.
    plain = np.asarray(_updates("none", attention, values))
    np.testing.assert_allclose(
        np.corrcoef(plain[0].ravel(), updates[0].ravel())[0, 1], 1, rtol=1e-5
    )


def test_batch_norm_has_unit_moments_over_the_batch(attention, values):
    updates, stats = _updates("batch_norm", attention, values)
    np.testing.assert_allclose(updates.mean(), 0, atol=1e-5)
    np.testing.assert_allclose(updates.std(), 1, rtol=1e-3)
    plain = np.asarray(_updates("none", attention, values))
    np.testing.assert_allclose(stats["mean"], 0.1 * plain.mean(), rtol=1e-5)
    np.testing.assert_allclose(stats["var"], 0.9 + 0.1 * plain.var(), rtol=1e-5)


def test_batch_norm_updates_its_averages_once_a_step_and_not_in_evaluation():
    model, inputs = _model("batch_norm"), _inputs()
    variables = _variables(model, inputs)
    assert variables["batch_stats"]["update_normalization"] == {"mean": 0, "var": 1}

    def stats_after(num_iterations, train=True):
        _, updated = model.apply(
            variables,
            inputs,
            train=train,
            noise=_noise(3),
            num_iterations=num_iterations,
            mutable=["batch_stats"],
        )
        return updated["batch_stats"]["update_normalization"]

    once = stats_after(1)
    assert once["mean"] != 0
    assert stats_after(4) == once
    assert stats_after(4, train=False) == {"mean": 0, "var": 1}


def test_batch_norm_over_devices_equals_one_device(attention, values):
    together, stats = _updates("batch_norm", attention, values)
    module = normalization.BatchNorm(axis_name="devices")
    variables = module.init(jax.random.key(0), attention, values, None, True)

    def device(attention, values):
        return module.apply(
            variables, attention, values, None, True, mutable=["batch_stats"]
        )

    (apart, _), updated = jax.vmap(device, axis_name="devices")(
        attention[:, None], values[:, None]
    )
    np.testing.assert_allclose(apart[:, 0], together, rtol=1e-5, atol=1e-6)
    for name, value in updated["batch_stats"].items():
        np.testing.assert_allclose(value, np.full(2, stats[name]), rtol=1e-6)


def test_normalizers_stay_float32_under_bfloat16(attention, values):
    """Moments of values far from 0 are lost in bfloat16 and kept in float32."""
    values = (values + 1000).astype(jnp.bfloat16)
    exact = np.einsum(
        "bkn,bnd->bkd",
        np.asarray(attention.astype(jnp.bfloat16), np.float64),
        np.asarray(values, np.float64),
    )
    centered = exact - exact.mean()
    updates, _ = _updates("batch_norm", attention, values)
    np.testing.assert_allclose(updates, centered / centered.std(), rtol=1e-2, atol=1e-3)


def test_aliases_and_unknown_names():
    for alias, name in normalization.ALIASES.items():
        assert normalization.canonical_name(alias) == name
    with pytest.raises(UserError) as caught:
        _variables(_model("softmax"), _inputs())
    for name in [*NAMES, *normalization.ALIASES]:
        assert name in str(caught.value)
