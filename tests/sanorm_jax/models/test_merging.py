import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.cluster import AgglomerativeClustering
from sklearn.metrics import adjusted_rand_score

from sanorm_jax.core.errors import UserError
from sanorm_jax.models import merging


@pytest.mark.parametrize("threshold", [0.05, 0.3, 0.8, 1.5])
def test_clusters_match_scikit_learn(threshold):
    slots = jax.random.normal(jax.random.key(0), (30, 9, 3))
    clusters = jax.jit(functools.partial(merging.cluster_slots, threshold=threshold))(
        slots
    )
    theirs = AgglomerativeClustering(
        n_clusters=None,
        metric="cosine",
        linkage="complete",
        distance_threshold=threshold,
    )
    for mine, image in zip(np.asarray(clusters), np.asarray(slots), strict=True):
        assert adjusted_rand_score(mine, theirs.fit_predict(image)) == 1.0
        # A cluster is named by its first slot.
        for k in np.unique(mine):
            assert np.flatnonzero(mine == k)[0] == k


def _outputs(slots, seed=0):
    masks = jax.nn.softmax(jax.random.normal(jax.random.key(seed), (1, 3, 8)), axis=1)
    return {"slots": slots, "masks": masks, "attention": masks}


def test_merged_identical_slots_equal_one_slot():
    a, b = jax.random.normal(jax.random.key(1), (2, 4))
    once = _outputs(jnp.stack([a, b, -a])[None])
    # Slot 0 once more at the end, and a quarter of what it had with it.
    twice = {"slots": jnp.stack([a, b, -a, a])[None]}
    for name in ("masks", "attention"):
        maps = once[name]
        parts = [0.75 * maps[:, :1], maps[:, 1:], 0.25 * maps[:, :1]]
        twice[name] = jnp.concatenate(parts, axis=1)
    merged = merging.merge_slots(twice, 1e-3)
    np.testing.assert_array_equal(merged["slot_mask"], [[True, True, True, False]])
    for name, value in once.items():
        np.testing.assert_allclose(merged[name][:, :3], value, atol=1e-6)
        np.testing.assert_array_equal(merged[name][:, 3], jnp.zeros_like(value[:, 0]))


def test_distinct_and_inactive_slots_are_not_merged():
    out = _outputs(jnp.eye(3)[None])
    merged = merging.merge_slots(out, 0.5)
    for name, value in out.items():
        np.testing.assert_allclose(merged[name], value, atol=1e-6)
    same = out | {"slots": jnp.ones((1, 3, 4))}
    same["slot_mask"] = jnp.array([[True, False, True]])
    merged = merging.merge_slots(same, 0.5)
    np.testing.assert_array_equal(merged["slot_mask"], [[True, False, False]])
    expected = out["masks"][:, 0] + out["masks"][:, 2]
    np.testing.assert_allclose(merged["masks"][:, 0], expected, atol=1e-6)


def test_images_of_merged_slots_still_sum_to_the_reconstruction():
    out = _outputs(jnp.ones((1, 3, 4)))
    out["masks"] = out["masks"].reshape(1, 3, 2, 4)
    images = jax.random.normal(jax.random.key(2), (1, 3, 2, 4, 3))
    out["slot_reconstructions"] = images
    merged = merging.merge_slots(out, 0.5)
    mixed, expected = (
        (o["masks"][..., None] * o["slot_reconstructions"]).sum(1)
        for o in (merged, out)
    )
    np.testing.assert_allclose(mixed, expected, atol=1e-5)


@pytest.mark.parametrize("threshold", [-0.1, 2.5, True, "0.1", float("nan")])
def test_thresholds_out_of_range_are_rejected(threshold):
    with pytest.raises(UserError, match="must be a cosine distance; use 0"):
        merging.check_threshold("config.merge_threshold", threshold)
