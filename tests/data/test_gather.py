import numpy as np
import pytest

from sanorm_jax.core.errors import UserError
from sanorm_jax.data import gather
from sanorm_jax.data.store import Store
from tests import stores

SHAPE = (40, 32)


@pytest.fixture
def store(tmp_path):
    return _write(tmp_path / "store", 10, 4)


def _write(root, count, per_shard):
    def make(rng, n):
        return {"features": rng.normal(size=(n, *SHAPE)).astype(np.float16)}

    stores.write(root, make, {"train": count}, per_shard)
    return Store.open(root)


@pytest.mark.parametrize(("count", "per_shard"), [(10, 4), (1, 4), (7, 1), (6, 24)])
def test_gathering_equals_tensorstore(tmp_path, monkeypatch, count, per_shard):
    store = _write(tmp_path / "store", count, per_shard)
    assert store._gatherer("train", "features") is not None
    monkeypatch.setattr(gather, "can_gather", lambda codecs, shape: False)
    plain = Store.open(store.root)
    assert plain._gatherer("train", "features") is None
    monkeypatch.undo()
    rng = np.random.default_rng(0)
    for size in (1, 5, 33):
        indices = rng.integers(0, count, size)
        fast = store.read("train", "features", indices)
        slow = plain.read("train", "features", indices)
        assert fast.dtype == slow.dtype
        np.testing.assert_array_equal(fast, slow)
        assert fast.ctypes.data % 64 == 0


def test_memory_is_reused_but_never_while_referenced(store):
    batches = [store.read("train", "features", [i, i + 1]) for i in range(6)]
    expected = [batch.copy() for batch in batches]
    assert len({batch.ctypes.data for batch in batches}) == 6
    freed = batches[2].ctypes.data
    held = batches[2][1:].view(np.uint16)
    batches[2] = None
    assert store.read("train", "features", [8, 9]).ctypes.data != freed
    np.testing.assert_array_equal(held.view(np.float16), expected[2][1:])
    del held
    again = [store.read("train", "features", [7, 8]) for _ in range(3)]
    assert freed in {batch.ctypes.data for batch in again}
    for i in (0, 1, 3, 4, 5):
        np.testing.assert_array_equal(batches[i], expected[i])


def test_idle_memory_is_bounded(store):
    gatherer = store._gatherer("train", "features")
    held = [gatherer(np.arange(n)) for n in (1, 2, 3, 4) for _ in range(5)]
    del held
    assert len(gatherer._buffers._free) <= 8


@pytest.mark.parametrize("cut", [1, 100, 3000, 10_000])
def test_file_truncated_after_reading_its_index_is_damaged(store, cut):
    store.read("train", "features", np.arange(10))
    path = store.shard_file("train", "features", 1)
    content = path.read_bytes()
    path.write_bytes(content[:-cut])
    with pytest.raises(UserError, match="damaged") as error:
        # Also the last example, whose bytes lie at the end.
        Store.open(store.root).read("train", "features", np.arange(10))
    assert str(path) in str(error.value)
    path.write_bytes(content)
    assert len(store.read("train", "features", np.arange(10))) == 10


def test_many_threads_read_the_same_as_one(store):
    indices = np.random.default_rng(1).integers(0, 10, 400)
    one = np.concatenate([store.read("train", "features", [i]) for i in range(10)])
    np.testing.assert_array_equal(
        store.read("train", "features", indices), one[indices]
    )
