"""A lock between processes: one file, held through the operating system, which frees it when its holder dies."""

import errno
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Event
from typing import Final

RETRY_S: Final = 0.2
_NOT_SUPPORTED: Final = {errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS}


@contextmanager
def hold_lock(path: Path, on_wait: Callable[[], None]) -> Iterator[bool]:
    """Hold the lock while the context lasts. While another process holds it, wait; `on_wait` is called before that.

    The file is made, and left. Yields False where the file system has no locks (some network ones), and nothing is held
    then. Raises OSError when the file cannot be opened.
    """
    handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        locked = _try_lock(handle)
        if locked is None:
            on_wait()
        while locked is None:
            Event().wait(RETRY_S)
            locked = _try_lock(handle)
        yield locked
    finally:
        os.close(handle)  # which also lets go of the lock


def _try_lock(handle: int) -> bool | None:
    """True: it is ours. None: another has it. False: there are no locks here."""
    try:
        if sys.platform == "win32":
            import msvcrt

            msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)
        else:
            import fcntl

            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):  # the latter is Windows' word for it
        return None
    except OSError as error:
        if error.errno in _NOT_SUPPORTED:
            return False
        raise
    return True
