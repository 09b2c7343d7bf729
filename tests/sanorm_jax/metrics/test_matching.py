"""Matching against scipy, the set loss against a recorded value."""

import pathlib

import hypothesis.extra.numpy as hnp
import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sanorm_jax.metrics.matching import huber_set_loss, match
from sanorm_jax.metrics.occupancy import slot_occupancy
from tests.sanorm_jax.metrics import plain

VECTORS = pathlib.Path(__file__).parents[2] / "vectors" / "set_predictor.npz"
BATCH = 64
matched = jax.jit(match)
loss = jax.jit(huber_set_loss)


def check_optimal(costs, valid, target):
    """Assert that each matching is one to one, of valid targets, and optimal."""
    for cost, real, chosen in zip(costs, valid, target, strict=True):
        slots = np.flatnonzero(chosen >= 0)
        count, minimum = plain.matching_cost(cost, real)
        assert len(slots) == count == len(set(chosen[slots].tolist()))
        assert real[chosen[slots]].all()
        total = cost[slots, chosen[slots]].astype(np.float64).sum()
        assert total == pytest.approx(minimum, abs=2e-6 * (1 + float(abs(cost).max())))


@pytest.mark.parametrize("shape", [(4, 7), (6, 6), (7, 4), (1, 3), (3, 1)])
@pytest.mark.parametrize("kind", ["uniform", "ties", "equal", "negative", "mixed"])
def test_matching_is_as_good_as_scipys(shape, kind):
    rng = np.random.default_rng(sum(map(ord, kind)))
    size = (128, *shape)
    costs = {
        "uniform": lambda: rng.random(size),
        "ties": lambda: rng.integers(0, 3, size),
        "equal": lambda: np.ones(size),
        "negative": lambda: -rng.random(size),
        "mixed": lambda: rng.normal(size=size) * 10.0 ** rng.integers(-3, 4, size),
    }[kind]().astype(np.float32)
    valid = np.ones((128, shape[1]), bool)
    check_optimal(costs, valid, np.asarray(matched(costs)))
    valid = rng.random(valid.shape) < rng.random((128, 1))
    check_optimal(costs, valid, np.asarray(matched(costs, valid)))


@settings(max_examples=60, deadline=None)
@given(
    hnp.arrays(
        np.float32, (BATCH, 5, 5), elements=st.sampled_from([-1, 0, 0.25, 1, 3, 1000])
    ),
    hnp.arrays(bool, (BATCH, 5)),
)
def test_matching_with_ties_and_padding(costs, valid):
    check_optimal(costs, valid, np.asarray(matched(costs, valid)))


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_pairs_with_non_finite_cost_are_avoided(bad):
    rng = np.random.default_rng(0)
    costs = rng.random((256, 5, 5)).astype(np.float32)
    # At most one a row and column, so that all can be avoided.
    row, column = rng.permuted(np.tile(np.arange(5), (2, 256, 1)), axis=-1)[..., :3]
    batch = np.arange(256)[:, None]
    broken = costs.copy()
    broken[batch, row, column] = bad
    costs[batch, row, column] = 1e3
    check_optimal(costs, np.ones((256, 5), bool), np.asarray(matched(broken)))


def test_matching_with_only_non_finite_costs_is_one_to_one():
    target = np.asarray(matched(np.full((1, 4, 4), np.nan, np.float32)))
    assert sorted(target[0].tolist()) == [0, 1, 2, 3]


def test_loss_equals_recorded():
    with np.load(VECTORS, allow_pickle=False) as file:
        ours = loss(file["predicted_properties"], file["targets"])
        assert float(ours.mean()) == pytest.approx(float(file["loss"]), rel=1e-6)


@pytest.mark.parametrize(("num_slots", "num_rows"), [(5, 5), (3, 7), (9, 4), (7, 1)])
def test_loss_with_padding_equals_scipys(num_slots, num_rows):
    rng = np.random.default_rng(num_slots)
    predictions = rng.normal(size=(200, num_slots, 19)).astype(np.float32)
    targets = rng.random((200, num_rows, 19)).astype(np.float32)
    count = np.minimum(rng.integers(0, num_rows + 1, 200), num_rows)
    targets[np.arange(num_rows) >= count[:, None]] = 0
    few = count <= num_slots
    expected = [
        plain.huber_set_loss(p, t)
        for p, t in zip(predictions[few], targets[few], strict=True)
    ]
    ours = np.asarray(loss(predictions, targets))
    np.testing.assert_allclose(ours[few], expected, rtol=1e-5)
    # Where objects outnumber slots, the choice must be best of all choices.
    for p, t, value in zip(predictions[~few], targets[~few], ours[~few], strict=True):
        assert value == pytest.approx(plain.huber_set_loss(p, t), rel=1e-5)


def test_vmap_over_seeds_and_half_precision():
    rng = np.random.default_rng(0)
    predictions = rng.random((2, 8, 3, 19)).astype(np.float32)
    targets = rng.random((8, 4, 19)).astype(np.float32)
    together = jax.jit(jax.vmap(huber_set_loss, (0, None)))(predictions, targets)
    for seed in range(2):
        np.testing.assert_array_equal(together[seed], loss(predictions[seed], targets))
    half = loss(predictions[0].astype(jax.numpy.bfloat16), targets)
    assert half.dtype == np.float32
    np.testing.assert_allclose(half, together[0], rtol=0.02)


def test_objects_cannot_be_escaped_by_matching_padding():
    # One slot, which predicts nothing, beside one object and one row of padding.
    targets = np.zeros((1, 2, 19), np.float32)
    targets[0, 1] = 1
    assert float(loss(np.zeros((1, 1, 19), np.float32), targets)[0]) == 0.5


def test_gradient_is_that_of_the_matched_pairs():
    targets = np.zeros((1, 2, 4), np.float32)
    targets[0, 0] = 1
    predictions = np.array([[[0.1] * 4, [0.8] * 4]], np.float32)
    gradient = jax.grad(lambda p: loss(p, targets).sum())(predictions)
    np.testing.assert_allclose(gradient[0, :, 0], [0.1 / 8, -0.2 / 8], rtol=1e-5)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_inactive_slots_do_not_affect_matching_or_loss(seed):
    """With them, matching and loss are those of the other slots alone."""
    rng = np.random.default_rng(seed)
    K, M = rng.integers(2, 6, 2)
    mask = rng.permutation(np.arange(K) < rng.integers(1, K + 1))
    costs = rng.normal(size=(1, K, M)).astype(np.float32)
    valid = rng.random((1, M)) < 0.6
    target = np.asarray(match(costs, valid, mask[None]))
    check_optimal(costs[:, mask], valid, target[:, mask])
    assert (target[:, ~mask] == -1).all()

    predictions = rng.random((1, K, 3)).astype(np.float32)
    targets = rng.random((1, M, 3)).astype(np.float32) * valid[..., None]
    np.testing.assert_allclose(
        huber_set_loss(predictions, targets, mask[None]),
        huber_set_loss(predictions[:, mask], targets),
        rtol=1e-5,
    )


def test_masked_slots_are_not_counted_as_empty():
    maps = np.zeros((1, 4, 6), np.float32)
    maps[:, 0] = 1
    mask = np.array([[True, True, False, False]])
    assert slot_occupancy(maps)["empty_slots"] == 0.75
    assert slot_occupancy(maps, mask)["empty_slots"] == 0.5
