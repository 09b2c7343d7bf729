"""Locks on file systems that have none, or that NFS emulates."""

import errno
import fcntl
import os

import pytest

from sanorm_jax.core import locks


@pytest.mark.parametrize("code", [errno.EWOULDBLOCK, errno.EAGAIN, errno.EACCES])
def test_held_lock_is_not_reported_as_unsupported(code, monkeypatch, tmp_path):
    def flock(file, operation):
        raise OSError(code, os.strerror(code))

    with (tmp_path / "lock").open("a+") as file:
        assert locks.try_lock(file)
        monkeypatch.setattr(fcntl, "flock", flock)
        assert not locks.try_lock(file)
