"""Locks on file systems that have none, or that NFS emulates."""

import errno
import fcntl
import os

import pytest

from sanorm_jax.data import locks, staging
from sanorm_jax.data.store import Store
from tests import stores


@pytest.mark.parametrize("code", [errno.EWOULDBLOCK, errno.EAGAIN, errno.EACCES])
def test_what_another_process_holds_is_not_unsupported(code, monkeypatch, tmp_path):
    def flock(file, operation):
        raise OSError(code, os.strerror(code))

    with (tmp_path / "lock").open("a+") as file:
        assert locks.try_lock(file)
        monkeypatch.setattr(fcntl, "flock", flock)
        assert not locks.try_lock(file)


@pytest.fixture
def source(tmp_path):
    stores.write_source(tmp_path / "bulk" / "shapes", {"train": 4}, per_shard=2)
    return Store.open(tmp_path / "bulk" / "shapes")


@pytest.mark.usefixtures("no_locks")
def test_without_locks_nothing_is_staged_or_removed(source, tmp_path, caplog):
    other = tmp_path / "stage" / staging.FOLDER / "of_another_process"
    other.mkdir(parents=True)
    assert staging.stage(source, tmp_path / "stage", ["train"]) is source
    assert "the file system has no locks (Function not implemented)" in caplog.text
    assert other.exists()


@pytest.mark.usefixtures("nfs")
def test_stores_are_staged_on_nfs(source, tmp_path):
    staged = staging.stage(source, tmp_path / "stage", ["train"])
    assert staged.root.is_relative_to(tmp_path / "stage")
    staging.release()
    assert not staged.root.exists()
