import numpy as np

from sanorm_jax.data import properties
from tests import stores


def test_property_vector_encodes_its_object():
    columns = {
        "shape": np.array([1, -1], np.int8),
        "size": np.array([0, -1], np.int8),
        "material": np.array([1, -1], np.int8),
        "color": np.array([7, -1], np.int8),
        "position": np.array([[-3, 3, 0.525], [1, 1, 1]], np.float32),
        "visibility": np.array([1, 0], np.float32),
    }
    vectors = properties.to_vectors(columns)
    assert vectors.dtype == np.float32
    shape, size, material = [0, 1, 0], [1, 0], [0, 1]
    color = [0, 0, 0, 0, 0, 0, 0, 1]
    expected = [*shape, *size, *material, *color, 0, 1, 0.5, 1]
    np.testing.assert_allclose(vectors[0], expected, atol=1e-6)
    np.testing.assert_array_equal(vectors[1], np.zeros(19))


def test_property_vectors_can_be_decoded():
    columns = stores.columns(np.random.default_rng(0), 50, 8)
    vectors = properties.to_vectors(columns)
    M = stores.MAX_OBJECTS
    assert vectors.shape == (50, M, properties.DIM) == (50, M, 19)
    real = np.arange(M) < columns["num_objects"][:, None]
    np.testing.assert_array_equal(vectors[..., -1], real)
    assert not vectors[~real].any()
    start = 0
    for name, classes in (("shape", 3), ("size", 2), ("material", 2), ("color", 8)):
        part = vectors[..., start : start + classes]
        np.testing.assert_array_equal(part.sum(-1), real)
        np.testing.assert_array_equal(part.argmax(-1)[real], columns[name][real])
        start += classes
    back = vectors[..., 15:18] * [6, 6, 0.35] + [-3, -3, 0.35]
    np.testing.assert_allclose(back[real], columns["position"][real], atol=1e-5)
