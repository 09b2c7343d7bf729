"""Segmentation metrics against scikit-learn, plain code and recorded vectors."""

import functools
import pathlib

import hypothesis.extra.numpy as hnp
import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import adjusted_rand_score

from sanorm_jax import baselines
from sanorm_jax.core.errors import UserError
from sanorm_jax.metrics import segmentation
from tests.sanorm_jax.metrics import plain

VECTORS = pathlib.Path(__file__).parents[2] / "vectors" / "metrics.npz"
NUM_TRUE, NUM_PREDICTED = 5, 4
SIZES = {"num_true": NUM_TRUE, "num_predicted": NUM_PREDICTED}
BATCH, PIXELS = 16, 36

all_metrics = jax.jit(functools.partial(segmentation.segmentation_metrics, **SIZES))


@pytest.fixture(scope="module")
def vectors():
    with np.load(VECTORS, allow_pickle=False) as file:
        return dict(file)


def label_maps(num_labels):
    # Few labels in some examples: one object, no foreground, all slots equal.
    return st.integers(1, num_labels).flatmap(
        lambda n: hnp.arrays(np.int32, (BATCH, PIXELS), elements=st.integers(0, n - 1))
    )


@settings(max_examples=150, deadline=None)
@given(label_maps(NUM_TRUE), label_maps(NUM_PREDICTED))
def test_metrics_match_plain_implementations(true, predicted):
    result = jax.device_get(all_metrics(true, predicted))
    for b in range(BATCH):
        pair = true[b], predicted[b]
        assert result["ari"][b] == pytest.approx(adjusted_rand_score(*pair), abs=1e-6)
        assert result["fg_ari"][b] == pytest.approx(plain.fg_ari(*pair), abs=1e-6)
        mbo = plain.mean_best_overlap(*pair, NUM_TRUE, NUM_PREDICTED)
        assert result["mbo"][b] == pytest.approx(mbo, abs=1e-6, nan_ok=True)
        miou = plain.mean_iou(*pair, NUM_TRUE, NUM_PREDICTED)
        assert result["miou"][b] == pytest.approx(miou, abs=1e-6, nan_ok=True)
        mbo = plain.mean_best_overlap_with_background(*pair, NUM_TRUE, NUM_PREDICTED)
        assert result["mbo_bg"][b] == pytest.approx(mbo, abs=1e-6, nan_ok=True)
        covering = plain.covering(*pair, NUM_TRUE, NUM_PREDICTED)
        assert result["covering"][b] == pytest.approx(covering, abs=1e-6, nan_ok=True)


@settings(max_examples=30, deadline=None)
@given(
    label_maps(NUM_TRUE),
    label_maps(NUM_PREDICTED),
    st.permutations(range(1, NUM_TRUE)),
    st.permutations(range(NUM_PREDICTED)),
)
def test_metrics_are_invariant_to_label_permutations(
    true, predicted, true_names, predicted_names
):
    result = all_metrics(true, predicted)
    renamed = all_metrics(
        np.array([0, *true_names])[true], np.array(predicted_names)[predicted]
    )
    for name, values in result.items():
        np.testing.assert_allclose(renamed[name], values, atol=1e-6)


@pytest.mark.parametrize("side", [224, 256, 320])
@pytest.mark.parametrize("case", ["random", "rare", "alike", "same"])
def test_ari_of_large_images_is_exact(side, case):
    rng = np.random.default_rng(side)
    true = rng.integers(0, 24, (2, side * side))
    predicted = rng.integers(0, 11, true.shape)
    if case == "rare":
        # Nearly trivial partitions: float32 differences would leave no digit.
        true = (rng.random(true.shape) < 1e-4).astype(int)
        predicted = (rng.random(true.shape) < 1e-4).astype(int)
    elif case == "alike":
        predicted = np.where(rng.random(true.shape) < 0.01, predicted, true % 11)
    elif case == "same":
        predicted = true = np.zeros_like(true)
    ours = segmentation.adjusted_rand_index(
        true, predicted, num_true=24, num_predicted=11
    )
    theirs = [adjusted_rand_score(t, p) for t, p in zip(true, predicted, strict=True)]
    np.testing.assert_allclose(ours, theirs, atol=1e-6)


def test_vmap_over_seeds_equals_a_loop():
    rng = np.random.default_rng(0)
    true = rng.integers(0, NUM_TRUE, (3, BATCH, PIXELS))
    predicted = rng.integers(0, NUM_PREDICTED, (3, BATCH, PIXELS))
    together = jax.jit(jax.vmap(all_metrics))(true, predicted)
    for seed in range(3):
        for name, values in all_metrics(true[seed], predicted[seed]).items():
            np.testing.assert_array_equal(together[name][seed], values)


def test_image_without_foreground_has_no_overlap():
    true = np.zeros((1, 8, 8), np.int32)
    predicted = np.arange(64).reshape(1, 8, 8) % NUM_PREDICTED
    result = jax.device_get(all_metrics(true, predicted))
    assert result["fg_ari"] == 1
    assert np.isnan(result["mbo"]) and np.isnan(result["miou"])
    assert result["ari"] == adjusted_rand_score(true.ravel(), predicted.ravel()) == 0


def test_pixels_without_a_true_label_are_ignored():
    rng = np.random.default_rng(0)
    true = rng.integers(0, NUM_TRUE, (1, 64))
    predicted = rng.integers(0, NUM_PREDICTED, (1, 64))
    marked = true.copy()
    marked[0, :10] = -1
    marked[0, 10:20] = 255
    expected = adjusted_rand_score(true[0, 20:], predicted[0, 20:])
    assert all_metrics(marked, predicted)["ari"] == pytest.approx(expected, abs=1e-6)


@settings(max_examples=50, deadline=None)
@given(label_maps(NUM_TRUE), label_maps(NUM_PREDICTED), st.integers(-3, 300))
def test_pixels_that_no_segment_claims_lower_the_overlap(true, predicted, unclaimed):
    # Labels that are segments stay; some become what none has.
    predicted = np.where(predicted == 1, unclaimed, predicted)
    result = jax.device_get(all_metrics(true, predicted))
    for b in range(BATCH):
        for name, slow in (("mbo", plain.mean_best_overlap), ("miou", plain.mean_iou)):
            expected = slow(true[b], predicted[b], NUM_TRUE, NUM_PREDICTED)
            assert result[name][b] == pytest.approx(expected, abs=1e-6, nan_ok=True)


def test_object_with_a_quarter_claimed_has_iou_of_a_quarter():
    result = all_metrics(np.array([[1, 1, 1, 1]]), np.array([[0, -1, -1, -1]]))
    assert result["mbo"] == result["miou"] == 0.25


def test_different_numbers_of_pixels_are_rejected():
    with pytest.raises(ValueError, match="true labels, but"):
        all_metrics(np.zeros((1, 64), int), np.zeros((1, 32), int))


class_mbo, class_miou = (
    jax.jit(functools.partial(metric, **SIZES, num_classes=3))
    for metric in (segmentation.mean_best_overlap, segmentation.mean_iou)
)


@settings(max_examples=50, deadline=None)
@given(
    label_maps(NUM_TRUE),
    label_maps(NUM_PREDICTED),
    hnp.arrays(np.int32, (BATCH, NUM_TRUE), elements=st.integers(-1, 2)),
)
def test_class_level_equals_instances_merged(true, predicted, classes):
    classes[:, 0] = -1
    merged = np.take_along_axis(classes, true, 1) + 1
    for metric, slow in (
        (class_mbo, plain.mean_best_overlap),
        (class_miou, plain.mean_iou),
    ):
        values = metric(true, predicted, classes=classes)
        expected = [
            slow(t, p, 4, NUM_PREDICTED) for t, p in zip(merged, predicted, strict=True)
        ]
        np.testing.assert_allclose(values, expected, atol=1e-6)


@pytest.mark.parametrize("method", segmentation.UPSCALE_METHODS)
def test_upscaled_segmentation_equals_recorded(vectors, method):
    maps = vectors["attention"]
    ours = segmentation.upscale_segmentation(maps, 224, method)
    np.testing.assert_array_equal(ours, vectors[f"segmentation_{method}"])
    from_maps = segmentation.upscale_maps(maps, 224, method).argmax(1)
    np.testing.assert_array_equal(from_maps, ours)


@pytest.mark.parametrize("side", [128, 256])
def test_resized_labels_equal_recorded(vectors, side):
    ours = segmentation.resize_labels(vectors[f"masks_{side}"], 224)
    np.testing.assert_array_equal(ours, vectors[f"masks_{side}_to_224"])


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"num_tokens": 6, "size": 8}, "6 tokens do not form a square"),
        ({"size": 8, "method": "nearest"}, "method='nearest'"),
    ],
)
def test_impossible_upscaling_is_rejected(kwargs, message):
    with pytest.raises(UserError, match=message):
        maps = np.zeros((1, 2, kwargs.pop("num_tokens", 4)))
        segmentation.upscale_segmentation(maps, **kwargs)


@pytest.mark.parametrize("num_slots", [1, 2, 3, 7, 11, 20])
def test_blocks_have_similar_sizes(num_slots):
    labels, counts = np.unique(
        baselines.block_segmentation(120, num_slots), return_counts=True
    )
    np.testing.assert_array_equal(labels, np.arange(num_slots))
    assert counts.max() <= 2 * counts.min()


def test_oracle_is_the_majority_label_of_each_token():
    labels = np.zeros((1, 8, 8), np.int32)
    labels[0, :4, 4:] = 2
    labels[0, 4:, :3] = 1
    labels[0, 7, 7] = 2
    oracle = baselines.token_oracle(labels, 2, 2, num_labels=3)
    np.testing.assert_array_equal(oracle[0], [[0, 2], [1, 0]])


def test_oracle_at_pixel_resolution_is_the_truth():
    labels = np.random.default_rng(0).integers(0, 4, (2, 9, 9))
    oracle = baselines.token_oracle(labels, 9, 9, num_labels=4)
    np.testing.assert_array_equal(oracle, labels)


def test_oracle_handles_grids_that_do_not_divide_the_image():
    labels = np.repeat([0, 1, 2], [3, 4, 3])[None, None].repeat(10, 1)
    oracle = baselines.token_oracle(labels, 3, 3, num_labels=3)
    np.testing.assert_array_equal(oracle[0, 0], [0, 1, 2])
