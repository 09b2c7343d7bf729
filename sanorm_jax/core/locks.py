"""File locks, with an error for file systems that do not support them."""

import errno
import fcntl
from typing import IO

_HELD = (errno.EWOULDBLOCK, errno.EAGAIN, errno.EACCES)


class LocksUnsupportedError(OSError):
    """The file system does not support locks, such as Lustre without `flock`."""


def try_lock(file: IO, kind: int = fcntl.LOCK_EX) -> bool:
    """Try to lock a file until it is closed; return whether that succeeded.

    Args:
      file: File to lock. On NFS, it must be open for writing, or for reading if the
        lock is shared.
      kind: `fcntl.LOCK_EX` or `fcntl.LOCK_SH`.

    Raises:
      LocksUnsupportedError: The file system does not support locks.
    """
    try:
        fcntl.flock(file, kind | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in _HELD:
            return False
        raise LocksUnsupportedError(error.errno, error.strerror, file.name) from None
    return True
