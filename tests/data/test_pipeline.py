import concurrent.futures
import itertools
import sys

import numpy as np
import pytest
import tensorflow as tf

from sanorm_jax.core.errors import UserError
from sanorm_jax.data import pipeline
from tests import stores

SPLITS = {"train": 37, "validation": 11}


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return stores.random_dataset(tmp_path_factory.mktemp("data"), SPLITS)


def _train(dataset, indices, batch_size=8, start=0, steps=12, seed=3, **hosts):
    return list(
        pipeline.train_batches(
            dataset,
            "train",
            indices,
            fields=("features", "num_objects"),
            batch_size=batch_size,
            seed=seed,
            start_step=start,
            num_steps=steps,
            **hosts,
        )
    )


def _rows(dataset, batches):
    """Return the examples that the batches hold, told by their features."""
    known = dataset.read("train", "features", np.arange(SPLITS["train"]))
    keys = {row.tobytes(): i for i, row in enumerate(known)}
    return [keys[row.tobytes()] for batch in batches for row in batch["features"]]


@pytest.mark.parametrize("batch_size", [8, 37, 50])
def test_every_epoch_contains_each_example_once(dataset, batch_size):
    indices = np.arange(37)
    rows = _rows(dataset, _train(dataset, indices, batch_size, steps=12))
    epochs = [rows[i : i + 37] for i in range(0, len(rows) - 36, 37)]
    assert len(epochs) >= 2
    assert all(sorted(epoch) == list(range(37)) for epoch in epochs)
    assert epochs[0] != epochs[1]


def test_resuming_yields_the_rest_of_the_stream(dataset):
    whole = _train(dataset, np.arange(37))
    for start in (1, 4, 5, 11):
        tail = _train(dataset, np.arange(37), start=start, steps=12 - start)
        assert len(tail) == 12 - start
        for a, b in zip(whole[start:], tail, strict=True):
            np.testing.assert_array_equal(a["features"], b["features"])


def test_threads_may_read_different_epochs_concurrently():
    n = 20_000
    one = pipeline._order(np.arange(n), seed=0)
    expected = [one(step * 50_000, 50_000) for step in range(8)]
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        for _ in range(12):
            shared = pipeline._order(np.arange(n), seed=0)
            with concurrent.futures.ThreadPoolExecutor(8) as pool:
                found = pool.map(lambda s, o=shared: o(s * 50_000, 50_000), range(8))
                for a, b in zip(found, expected, strict=True):
                    np.testing.assert_array_equal(a, b)
    finally:
        sys.setswitchinterval(interval)


def test_seed_determines_the_order(dataset):
    orders = [_rows(dataset, _train(dataset, np.arange(37), seed=s)) for s in (3, 3, 4)]
    assert orders[0] == orders[1] != orders[2]


@pytest.mark.parametrize("num_hosts", [2, 4])
def test_hosts_share_the_batch_of_a_single_host(dataset, num_hosts):
    whole = _train(dataset, np.arange(37))
    parts = [
        _train(dataset, np.arange(37), host_index=host, num_hosts=num_hosts)
        for host in range(num_hosts)
    ]
    for batch, *shares in zip(whole, *parts, strict=True):
        for name, values in batch.items():
            joined = np.concatenate([share[name] for share in shares])
            np.testing.assert_array_equal(joined, values)
        np.testing.assert_array_equal(batch["position"], np.arange(8))


@pytest.mark.parametrize(
    ("batch_size", "num_hosts", "count"),
    [(4, 1, 11), (4, 2, 11), (16, 4, 11), (2, 1, 1), (8, 2, 8)],
)
def test_evaluation_counts_each_example_once(dataset, batch_size, num_hosts, count):
    indices = np.arange(11)[:count]
    seen, lengths = [], []
    for host in range(num_hosts):
        options = {"batch_size": batch_size, "host_index": host, "num_hosts": num_hosts}
        fields = ("segmentation", "properties")
        batches = pipeline.eval_batches(
            dataset, "validation", indices, fields=fields, **options
        )
        batches = list(batches)
        lengths.append(len(batches))
        for batch in batches:
            assert len(batch["index"]) == batch_size // num_hosts
            expected = dataset.read("validation", "segmentation", batch["index"])
            np.testing.assert_array_equal(batch["segmentation"], expected)
            seen += batch["index"][batch["mask"]].tolist()
    assert sorted(seen) == indices.tolist()
    assert len(set(lengths)) == 1


def test_filters_select_the_right_examples(dataset):
    counts = dataset.read("train", "num_objects", np.arange(37))
    for low, high in itertools.product((None, 3), (None, 6)):
        kept = pipeline.select(dataset, "train", min_objects=low, max_objects=high)
        wanted = (counts >= (low or 0)) & (counts <= (high or 99))
        np.testing.assert_array_equal(kept, np.flatnonzero(wanted))
    few = pipeline.select(dataset, "train", num_examples=5, data_seed=1)
    again = pipeline.select(dataset, "train", num_examples=5, data_seed=1)
    other = pipeline.select(dataset, "train", num_examples=5, data_seed=2)
    assert len(few) == len(other) == 5
    np.testing.assert_array_equal(few, again)
    assert few.tolist() != other.tolist()
    assert len(pipeline.select(dataset, "train", num_sequences=4)) == 4


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_objects": 0}, "max_objects=0: not positive"),
        ({"num_examples": -1}, "num_examples=-1: not positive"),
        ({"min_objects": 99}, "min_objects=99: selects no example of train"),
    ],
)
def test_limits_out_of_range_are_rejected(dataset, options, message):
    with pytest.raises(UserError, match=message):
        pipeline.select(dataset, "train", **options)


def test_damage_found_in_training_names_the_file(tmp_path):
    dataset = stores.random_dataset(tmp_path, SPLITS)
    path = dataset._stores["features"].shard_file("train", "features", 2)
    stores.flip(path, 100, 2)
    with pytest.raises(UserError, match="damaged") as error:
        _train(dataset, np.arange(37))
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


def test_features_of_other_images_are_rejected(tmp_path):
    source = stores.write_source(tmp_path / "random", SPLITS)
    stores.write_features(tmp_path / "random-random", source)
    other = tmp_path / "other"
    stores.write_source(other, SPLITS, size=32)
    (tmp_path / "random").rename(tmp_path / "first")
    other.rename(tmp_path / "random")
    with pytest.raises(UserError, match="not extracted from the current"):
        pipeline.open_dataset(tmp_path, "random", encoder="random")


def test_features_of_another_encoder_are_rejected(tmp_path):
    stores.random_dataset(tmp_path, SPLITS)
    (tmp_path / "random-random").rename(tmp_path / "random-patches")
    with pytest.raises(UserError, match=r"features of random, not of patches") as e:
        pipeline.open_dataset(tmp_path, "random", encoder="patches")
    assert str(tmp_path / "random-patches") in str(e.value)


def test_a_missing_store_and_field_are_named(tmp_path, dataset):
    with pytest.raises(UserError, match="not a store"):
        pipeline.open_dataset(tmp_path, "absent")
    with pytest.raises(UserError, match="no field absent"):
        next(
            pipeline.eval_batches(
                dataset, "validation", np.arange(3), fields=("absent",), batch_size=2
            )
        )


def test_tensorflow_sees_no_gpu():
    assert tf.config.get_visible_devices("GPU") == []
