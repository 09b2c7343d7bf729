"""File locks that tell a lock that another process holds from a disk without locks."""

import errno
import fcntl
from typing import IO

_HELD = (errno.EWOULDBLOCK, errno.EAGAIN, errno.EACCES)


class LocksUnsupportedError(OSError):
    """The file system has no locks, as Lustre mounted without `flock`."""


def try_lock(file: IO, kind: int = fcntl.LOCK_EX) -> bool:
    """Return whether this process now holds a lock; it lasts while the file is open.

    Args:
      file: File to lock. NFS needs it open for writing, or for reading if the lock is
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
