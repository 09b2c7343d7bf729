"""Checkpoints and logs on a disk that is full."""

import contextlib

import numpy as np
import pytest

from sanorm_jax.run.folder import workdir, writers
from sanorm_jax.run.folder.checkpoints import Checkpoints, restore
from tests.faults import harm


@pytest.fixture
def disk(small_disk):
    with small_disk("8M") as path:
        yield path


@contextlib.contextmanager
def _full(disk):
    filler = disk / "filler"
    harm.fill(filler)
    yield
    filler.unlink()


def test_a_full_disk_is_logged_and_the_next_checkpoint_tried(disk, caplog):
    state = {"params": np.random.default_rng(0).normal(size=(200, 200))}
    checkpoints = Checkpoints(disk, num_checkpoints=2)
    assert checkpoints.save(100, state, {}, wait=True)
    with _full(disk):
        # Fails in the background; the next save logs it.
        checkpoints.save(101, state, {})
        assert not checkpoints.save(102, state, {}, wait=True)
    assert "checkpoint of step 101 not saved" in caplog.text
    assert "checkpoint of step 102 not saved" in caplog.text
    assert [p.name for p in (disk / "checkpoints").iterdir()] == ["100"]
    for step in (103, 104, 105):
        assert checkpoints.save(step, state, {}, wait=True)
    assert checkpoints.steps() == [104, 105]
    restored, meta = restore(disk, state)
    checkpoints.close()
    assert meta["step"] == 105
    np.testing.assert_array_equal(restored["params"], state["params"])


def test_lines_that_do_not_fit_on_a_full_disk_are_written_later(disk):
    path = disk / "metrics.jsonl"
    writer = writers.JsonLinesWriter(path)
    writer.write_scalars(1, {"loss": 1.0})
    with _full(disk):
        # More than fits in the page that holds the first line.
        writer.write_scalars(2, {f"loss_{i}": 1 / 3 for i in range(500)})
        assert [line["step"] for line in workdir.read_lines(path)] == [1]
    writer.write_scalars(3, {"loss": 1.0})
    writer.close()
    assert [line["step"] for line in workdir.read_lines(path)] == [1, 2, 3]
