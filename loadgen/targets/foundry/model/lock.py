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
def held(path: Path, waiting: Callable[[], None]) -> Iterator[bool]:
    """Hold the lock while the context lasts; `waiting` is called once when another holds it, and then it is waited for.

    The file is made, and left. Yields False where the file system has no locks (some network ones), and nothing is held
    then. Raises OSError when the file cannot be opened.
    """
    handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        taken, told, never = _take(handle), False, Event()
        while taken is None:
            if not told:
                waiting()
                told = True
            never.wait(RETRY_S)
            taken = _take(handle)
        yield taken
    finally:
        os.close(handle)  # which also lets go of the lock


def _take(handle: int) -> bool | None:
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
