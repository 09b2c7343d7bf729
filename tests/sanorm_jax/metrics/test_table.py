"""The table of examples does not depend on how they came together."""

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


def add(table, indices, padding=0):
    """Add one batch, filled up with masked rows that repeat the last."""
    rows = np.concatenate([indices, np.repeat(indices[-1:], padding)]).astype(int)
    mask = np.arange(len(rows)) < len(indices)
    table.add(rows + 100, mask, {name: v[rows] for name, v in VALUES.items()})


@settings(max_examples=100, deadline=None)
@given(
    st.permutations(range(N)),
    st.lists(st.integers(1, N - 1), max_size=8, unique=True),
    st.integers(0, 3),
)
def test_batches_and_order_change_nothing(order, cuts, padding):
    table = Table()
    for batch in np.split(np.array(order), sorted(cuts)):
        add(table, batch, padding)
    np.testing.assert_array_equal(table.index, np.arange(N) + 100)
    columns = table.columns()
    assert columns.keys() == VALUES.keys()
    for name, column in columns.items():
        np.testing.assert_array_equal(column, VALUES[name])


def test_means_are_float64_over_examples():
    mean = metrics.mean("fg_ari", VALUES["fg_ari"])
    assert mean == VALUES["fg_ari"].astype(np.float64).mean()


def test_images_without_objects_are_left_out_of_overlaps_alone():
    values = np.array([0.2, np.nan, 0.6], np.float32)
    for name in ("mbo_masks", "pair_recall_masks"):
        assert metrics.mean(name, values) == pytest.approx(0.4)
    columns = {"fg_ari_masks": np.ones(3), "mbo_masks": values}
    assert metrics.count(columns) == {"num_examples": 3, "num_with_objects": 2}
    # Of anything else NaN is a fault, and shows.
    assert np.isnan(metrics.mean("fg_ari_masks", values))
    assert np.isnan(metrics.mean("miou_masks", np.array([np.nan])))


def test_example_counted_twice_is_refused():
    table = Table()
    add(table, np.arange(5))
    with pytest.raises(ValueError, match="example 104 was counted twice"):
        add(table, np.array([7, 4]))
    with pytest.raises(ValueError, match="example 107 was counted twice"):
        add(Table(), np.array([7, 7]))


def test_an_empty_table_has_no_columns():
    assert Table().columns() == {}
    assert len(Table().index) == 0
