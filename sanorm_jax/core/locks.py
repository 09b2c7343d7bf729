"""File locks, including file systems without support for them."""

import errno
import fcntl
from typing import IO

_HELD = (errno.EWOULDBLOCK, errno.EAGAIN, errno.EACCES)


class LocksUnsupportedError(OSError):
    """The file system has no locks, such as Lustre mounted without `flock`."""


def try_lock(file: IO, kind: int = fcntl.LOCK_EX) -> bool:
    """Return whether this process obtained the lock, which lasts until `file` closes.

    Args:
      file: File to lock. On NFS, open it for writing, or for reading if the lock is
        shared.
      kind: `fcntl.LOCK_EX` or `fcntl.LOCK_SH`.

    Raises:
      LocksUnsupportedError: The file system has no locks.
    """
    try:
        fcntl.flock(file, kind | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in _HELD:
            return False
        raise LocksUnsupportedError(error.errno, error.strerror, file.name) from None
    return True
