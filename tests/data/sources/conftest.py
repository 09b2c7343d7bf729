import pytest

from tests.data import fixtures, movi_fixture


@pytest.fixture(scope="session")
def scenes(tmp_path_factory):
    """Return a file of CLEVR with masks, and the values of its 7 scenes."""
    path = tmp_path_factory.mktemp("clevr") / "clevr_with_masks_train.tfrecords"
    return path, fixtures.write_clevr_with_masks(path, [3, 10, 0, 6, 4, 9, 5])


@pytest.fixture(scope="session")
def tetrominoes(tmp_path_factory):
    """Return a file of Tetrominoes, and the values of its 9 images."""
    path = tmp_path_factory.mktemp("tetro") / "tetrominoes_train.tfrecords"
    return path, fixtures.write_tetrominoes(path, 9)


@pytest.fixture(scope="session")
def clevr(tmp_path_factory):
    """Return a folder of CLEVR v1.0, and its scenes by published split."""
    root = tmp_path_factory.mktemp("published") / "CLEVR_v1.0"
    return root, fixtures.write_clevr(root, {"train": 5, "val": 3, "test": 2})


@pytest.fixture(scope="session")
def movi_c(tmp_path_factory):
    """Return a builder folder of MOVi-C."""
    return movi_fixture.write(tmp_path_factory.mktemp("tfds"), "movi_c")
