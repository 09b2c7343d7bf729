"""The table of examples does not depend on how they came together."""

import functools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sanorm_jax import metrics
from sanorm_jax.metrics import Table

N = 40
VALUES = {
    "fg_ari": np.random.default_rng(0).random(N).astype(np.float32) * 1e3,
    "num_objects": np.random.default_rng(1).integers(2, 5, N).astype(np.int32),
    "predictions": np.random.default_rng(2).random((N, 2, 3)).astype(np.float32),
}


def filled(indices, padding=0):
    """One batch, filled up with masked rows that repeat the last."""
    rows = np.concatenate([indices, np.repeat(indices[-1:], padding)]).astype(int)
    table = Table()
    mask = np.arange(len(rows)) < len(indices)
    table.add(rows + 100, mask, {name: v[rows] for name, v in VALUES.items()})
    return table


def assert_equal(table, expected):
    assert table.compute() == expected.compute()
    np.testing.assert_array_equal(table.index, expected.index)
    for name, column in expected.columns().items():
        np.testing.assert_array_equal(table.columns()[name], column)


@settings(max_examples=100, deadline=None)
@given(
    st.permutations(range(N)),
    st.lists(st.integers(1, N - 1), max_size=8, unique=True),
    st.integers(0, 3),
)
def test_results_do_not_depend_on_batches_hosts_or_order(order, cuts, padding):
    batches = np.split(np.array(order), sorted(cuts))
    tables = [filled(batch, padding) for batch in batches]
    merged = functools.reduce(Table.merge, tables)
    assert_equal(merged, filled(np.arange(N)))
    if len(tables) > 2:
        right = functools.reduce(Table.merge, tables[1:])
        assert_equal(tables[0].merge(right), merged)


def test_means_are_float64_over_examples():
    table = filled(np.arange(N))
    assert len(table) == N
    result = table.compute()
    assert set(result) == {"fg_ari", "num_objects"}
    assert result["fg_ari"] == VALUES["fg_ari"].astype(np.float64).mean()


def test_images_without_objects_are_excluded_only_from_object_metrics():
    columns = {
        "mbo_masks": np.array([0.2, np.nan, 0.6], np.float32),
        "pair_recall_masks": np.array([0.2, np.nan, 0.6], np.float32),
        "fg_ari_masks": np.array([0.2, 1.0, 0.6], np.float32),
    }
    table = Table()
    table.add(np.arange(3), np.ones(3, bool), columns)
    means = table.compute()
    assert means["mbo_masks"] == means["pair_recall_masks"] == pytest.approx(0.4)
    assert means["fg_ari_masks"] == pytest.approx(0.6)
    assert metrics.count(columns) == {"num_examples": 3, "num_with_objects": 2}
    # Of anything else NaN is a fault, and shows.
    assert np.isnan(metrics.mean("mse", np.array([0.1, np.nan])))
    assert np.isnan(metrics.mean("miou_masks", np.array([np.nan])))


def test_groups_contain_each_example_once():
    groups = filled(np.arange(N)[::-1]).by("num_objects")
    assert list(groups) == [2, 3, 4]
    for count, columns in groups.items():
        rows = VALUES["num_objects"] == count
        np.testing.assert_array_equal(columns["fg_ari"], VALUES["fg_ari"][rows])
        assert (columns["num_objects"] == count).all()


def test_example_counted_twice_is_rejected():
    table = filled(np.arange(5))
    with pytest.raises(ValueError, match="example 104 was counted twice"):
        table.merge(filled(np.array([4, 7])))
    with pytest.raises(ValueError, match="example 107 was counted twice"):
        filled(np.array([7, 7]))
    assert len(table) == 5


def test_padding_does_not_count_as_a_repetition():
    table = Table()
    table.add([3, 3], [True, False], {"mse": [1.0, 100.0]})
    table.add([3], [False], {"mse": [100.0]})
    assert table.compute() == {"mse": 1.0}


def test_empty_tables():
    table = Table()
    assert len(table) == 0
    assert table.compute() == table.columns() == {}
    assert_equal(table.merge(filled(np.arange(3))), filled(np.arange(3)))


def test_rows_of_the_wrong_shape_are_rejected():
    table = Table()
    table.add([0], [True], {"mse": [1.0]})
    with pytest.raises(ValueError, match="do not fit"):
        table.add([1], [True], {"ari": [1.0]})
    with pytest.raises(ValueError, match="column mse"):
        table.add([1], [True], {"mse": [1.0, 2.0]})
    with pytest.raises(ValueError, match="not \\[B\\]"):
        table.add([1, 2], [True], {"mse": [1.0]})
    with pytest.raises(KeyError, match="no column"):
        table.by("num_objects")
    assert table.compute() == {"mse": 1.0}
