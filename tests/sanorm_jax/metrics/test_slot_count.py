"""Measures of the slot count against plain loops and scikit-learn."""

import functools

import hypothesis.extra.numpy as hnp
import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics.cluster import pair_confusion_matrix

from sanorm_jax.metrics import boxes, slot_count
from tests.sanorm_jax.metrics import plain

NUM_TRUE, NUM_PREDICTED = 5, 4
SIZES = {"num_true": NUM_TRUE, "num_predicted": NUM_PREDICTED}
BATCH, SIDE = 8, 6

count_metrics = jax.jit(functools.partial(slot_count.count_metrics, **SIZES))
box_metrics = jax.jit(functools.partial(boxes.box_metrics, **SIZES))


def label_maps(num_labels, lowest=0):
    # Few labels in some examples: one object, no foreground, all slots equal.
    return st.integers(lowest + 1, num_labels).flatmap(
        lambda n: hnp.arrays(
            np.int32, (BATCH, SIDE, SIDE), elements=st.integers(lowest, n - 1)
        )
    )


@settings(max_examples=100, deadline=None)
@given(label_maps(NUM_TRUE), label_maps(NUM_PREDICTED))
def test_pair_measures_match_scikit_learn(true, predicted):
    result = jax.device_get(count_metrics(true, predicted))
    for b in range(BATCH):
        objects = true[b] > 0
        if not objects.any():
            assert np.isnan(result["pair_precision"][b])
            continue
        (_, false), (missed, both) = pair_confusion_matrix(
            true[b][objects], predicted[b][objects]
        )
        precision = both / (both + false) if both + false else 1.0
        recall = both / (both + missed) if both + missed else 1.0
        assert result["pair_precision"][b] == pytest.approx(precision, abs=1e-6)
        assert result["pair_recall"][b] == pytest.approx(recall, abs=1e-6)
        total = precision + recall
        f1 = 2 * precision * recall / total if total else 0.0
        assert result["pair_f1"][b] == pytest.approx(f1, abs=1e-6)


@settings(max_examples=100, deadline=None)
@given(label_maps(NUM_TRUE), label_maps(NUM_PREDICTED))
def test_count_measures_match_plain_implementations(true, predicted):
    result = jax.device_get(count_metrics(true, predicted))
    for b in range(BATCH):
        for name, expected in plain.slot_counts(
            true[b], predicted[b], slot_count.COVERS
        ).items():
            assert result[name][b] == pytest.approx(expected, abs=1e-6, nan_ok=True)


@settings(max_examples=100, deadline=None)
@given(label_maps(NUM_TRUE, lowest=-1), label_maps(NUM_PREDICTED))
def test_box_measures_match_plain_implementations(true, predicted):
    result = jax.device_get(box_metrics(true, predicted))
    for b in range(BATCH):
        known = np.where(true[b] >= 0, predicted[b], -1)
        found = plain.found_boxes(true[b], known, NUM_TRUE, NUM_PREDICTED)
        corloc, recovery = (max(found), np.mean(found)) if found else (np.nan,) * 2
        assert result["corloc"][b] == pytest.approx(float(corloc), nan_ok=True)
        assert result["recovery"][b] == pytest.approx(recovery, abs=1e-6, nan_ok=True)


def _two_objects(predicted):
    true = np.zeros((1, SIDE, SIDE), int)
    true[0, :2, :4] = 1
    true[0, 4:, :4] = 2
    return {k: float(v[0]) for k, v in count_metrics(true, predicted(true)).items()}


def test_a_perfect_segmentation_has_one_slot_per_object_and_no_count_error():
    assert _two_objects(lambda true: true) == {
        "pair_precision": 1.0,
        "pair_recall": 1.0,
        "pair_f1": 1.0,
        "slots_per_object": 1.0,
        "objects_per_slot": 1.0,
        "count_error": 0.0,
        "count_abs_error": 0.0,
    }


def test_over_segmentation_lowers_only_recall():
    def halve_the_first(true):
        parts = true.copy()
        parts[:, :2, 2:4] = 3
        return parts

    result = _two_objects(halve_the_first)
    assert result["pair_precision"] == 1
    assert result["pair_recall"] < 1
    assert (result["slots_per_object"], result["objects_per_slot"]) == (1.5, 1)
    assert result["count_error"] == 1


def test_under_segmentation_lowers_only_precision():
    result = _two_objects(lambda true: np.minimum(true, 1))
    assert result["pair_recall"] == 1
    assert result["pair_precision"] < 1
    assert (result["slots_per_object"], result["objects_per_slot"]) == (1, 2)
    assert (result["count_error"], result["count_abs_error"]) == (-1, 1)


def test_a_slot_with_little_of_an_object_does_not_cover_it():
    true = np.ones((1, SIDE, SIDE), int)
    for pixels, expected in ((3, 1), (4, 2)):
        predicted = np.zeros_like(true)
        predicted.reshape(-1)[:pixels] = 1
        slots = count_metrics(true, predicted)["slots_per_object"]
        np.testing.assert_array_equal(slots, [expected])


def test_count_error_includes_images_without_objects():
    empty = np.zeros((1, SIDE, SIDE), int)
    predicted = empty.copy()
    predicted[0, 0, :3] = [1, 2, 3]
    result = count_metrics(empty, predicted)
    assert result["count_error"] == 3
    assert np.isnan(result["slots_per_object"])
