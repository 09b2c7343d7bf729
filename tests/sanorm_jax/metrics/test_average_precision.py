"""Average precision against a recorded value and a plain version."""

import pathlib

import hypothesis.extra.numpy as hnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sanorm_jax.core.errors import UserError
from sanorm_jax.metrics import average_precision as ap
from tests.sanorm_jax.metrics import plain

VECTORS = pathlib.Path(__file__).parents[2] / "vectors" / "metrics.npz"


def properties(kinds, positions, last):
    """Vectors of 19 numbers; kinds 0 to 3 differ in shape and material."""
    result = np.zeros((*kinds.shape, 19), np.float32)
    result[..., 3] = result[..., 7] = 1
    np.put_along_axis(result[..., 0:3], (kinds % 2)[..., None], 1, -1)
    np.put_along_axis(result[..., 5:7], (kinds // 2)[..., None], 1, -1)
    result[..., 15:18] = positions
    result[..., 18] = last
    return result


@st.composite
def splits(draw):
    S, K, M = (draw(st.integers(1, n)) for n in (4, 5, 4))

    def vectors(count, last):
        # Coarse values: ties in confidence, distances equal to each other.
        return properties(
            draw(hnp.arrays(np.int64, (S, count), elements=st.integers(0, 1))),
            draw(hnp.arrays(np.float32, (S, count, 3), elements=_POSITIONS)),
            draw(hnp.arrays(np.float32, (S, count), elements=last)),
        )

    targets = vectors(M, st.sampled_from([0.0, 1.0]))
    targets[0, 0, -1] = 1
    return vectors(K, st.sampled_from([0.1, 0.5, 0.9])), targets


_POSITIONS = st.sampled_from([0.0, 0.01, 0.02, 0.05, 0.1, 0.5])


def random_split(rng, S, K, M):
    kinds = rng.integers(0, 4, (S, M))
    positions = rng.random((S, M, 3))
    targets = properties(kinds, positions, rng.random((S, M)) < 0.6)
    source = rng.integers(0, M, (S, K))
    noise = rng.normal(size=(S, K, 3)) * 0.05
    predictions = properties(
        np.where(rng.random((S, K)) < 0.3, 0, np.take_along_axis(kinds, source, 1)),
        np.take_along_axis(positions, source[..., None], 1) + noise,
        rng.random((S, K)),
    )
    return predictions, targets


def test_values_equal_recorded():
    with np.load(VECTORS, allow_pickle=False) as file:
        # A negative threshold stands for none in the recording.
        thresholds = np.where(file["ap_thresholds"] < 0, np.inf, file["ap_thresholds"])
        assert tuple(thresholds) == ap.THRESHOLDS
        ours = ap.average_precision(file["ap_predictions"], file["ap_targets"])
        np.testing.assert_allclose(ours, file["ap_values"], atol=1e-6)


@pytest.mark.parametrize("z_range", ap.Z_RANGES)
@settings(max_examples=200, deadline=None)
@given(split=splits())
def test_coarse_splits_equal_the_plain_version(z_range, split):
    ours = ap.average_precision(*split, z_range=z_range)
    scale = (6, 6, {"reference": 6, "correct": 0.35}[z_range])
    expected = [plain.average_precision(*split, t, scale) for t in ap.THRESHOLDS]
    np.testing.assert_allclose(ours, expected, atol=1e-12)


@pytest.mark.parametrize(("K", "M"), [(6, 6), (3, 8), (12, 5)])
def test_random_splits_equal_the_plain_version(K, M, monkeypatch):
    # Several rounds over the images
    monkeypatch.setattr(ap, "_IMAGES_AT_ONCE", 64)
    split = random_split(np.random.default_rng(K), 150, K, M)
    ours = ap.average_precision(*split)
    expected = [plain.average_precision(*split, t) for t in ap.THRESHOLDS]
    assert 0 < expected[-1] < expected[1] < 1
    np.testing.assert_allclose(ours, expected, atol=1e-12)


def test_perfect_predictions_score_one_whatever_their_order():
    _, targets = random_split(np.random.default_rng(0), 20, 4, 4)
    np.testing.assert_allclose(ap.average_precision(targets[:, ::-1], targets), 1)


def test_an_object_found_twice_counts_once():
    targets = properties(np.zeros((1, 2), int), np.array([[[0.0] * 3, [0.9] * 3]]), 1)
    predictions = targets[:, [0, 0]].copy()
    # First of two objects at full precision, the second never
    assert ap.average_precision(predictions, targets, (1.0,)) == [0.5]


def test_average_precision_without_objects_or_predictions():
    predictions, targets = random_split(np.random.default_rng(0), 3, 4, 5)
    assert np.isnan(ap.average_precision(predictions, np.zeros_like(targets))).all()
    assert np.isnan(ap.average_precision(predictions, targets[:, :0])).all()
    assert (ap.average_precision(predictions[:, :0], targets) == 0).all()
    assert (ap.average_precision(np.full_like(predictions, np.nan), targets) == 0).all()


def test_bad_arguments_are_rejected():
    predictions, targets = random_split(np.random.default_rng(0), 3, 4, 5)
    with pytest.raises(UserError, match="z_range='right': is unknown"):
        ap.average_precision(predictions, targets, z_range="right")
    with pytest.raises(ValueError, match="do not agree"):
        ap.average_precision(predictions[:2], targets)
    with pytest.raises(ValueError, match="do not agree"):
        ap.average_precision(predictions[..., :18], targets)
