"""Compresses the closed segments of a log, one after another, in a thread of low priority."""

import contextlib
import ctypes
import os
import sys
import threading
import zlib
from collections import deque
from collections.abc import Callable
from typing import Final

from loadgen.store.segments import Segment

LEVEL: Final = 6
CHUNK_BYTES: Final = 1 << 20
"""How much is compressed at once. The interpreter's lock is free meanwhile, and is taken only between two chunks."""
NICENESS: Final = 19
DARWIN_THREAD: Final = 3
DARWIN_BACKGROUND: Final = 0x1000
"""PRIO_DARWIN_THREAD and PRIO_DARWIN_BG of `sys/resource.h`."""
WINDOWS_LOWEST: Final = -2
"""THREAD_PRIORITY_LOWEST."""
_GZIP: Final = 31
"""zlib's number for the format of gzip. Its header then has no time, so that equal lines make equal files."""


def write_compressed(segment: Segment, is_wanted: Callable[[], bool]) -> None:
    """Write the compressed form of a segment under the name that it has while it is unfinished. is_wanted: asked before
    each chunk; the rest is left out if it is not.

    Raises OSError, with nothing left: the segment may have been removed, or the disk may be full.
    """
    stream = zlib.compressobj(LEVEL, zlib.DEFLATED, _GZIP)
    try:
        with segment.plain.open("rb", buffering=0) as source, segment.unfinished.open("wb") as target:
            while is_wanted() and (chunk := source.read(CHUNK_BYTES)):
                target.write(stream.compress(chunk))
            target.write(stream.flush())
            target.flush()
            # Before the plain form is removed, so that a loss of power leaves one of the two.
            os.fsync(target.fileno())
    except BaseException:
        with contextlib.suppress(OSError):
            segment.unfinished.unlink(missing_ok=True)
        raise


def take_compressed(segment: Segment) -> None:
    """Give the compressed form its name, and remove the plain one. Raises OSError."""
    segment.unfinished.replace(segment.compressed)
    segment.plain.unlink(missing_ok=True)


class Compressor:
    """The thread, and the segments that wait for it."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        """Guards all that follow."""
        self._waiting: deque[Segment] = deque()
        self._current: Segment | None = None
        """The segment that is being compressed."""
        self._is_withdrawn = False
        """Whether nobody wants the current segment any more."""
        self._is_closing = False
        self._thread: threading.Thread | None = None

    @property
    def is_busy(self) -> bool:
        """Whether a segment is being compressed."""
        return self._current is not None

    def add(self, segment: Segment) -> None:
        """Have a segment compressed, if it does not wait already."""
        with self._changed:
            if segment != self._current and segment not in self._waiting:
                self._waiting.append(segment)
                self._changed.notify()
        if self._thread is None:
            # A daemon, because a process that is told to end at once must not wait for it. What it leaves is read.
            self._thread = threading.Thread(target=self._work, name="compress segments", daemon=True)
            self._thread.start()

    def withdraw(self, segment: Segment) -> None:
        """Do not compress a segment, or forget what has been compressed of it. It may be removed then."""
        with self._changed:
            if segment in self._waiting:
                self._waiting.remove(segment)
            if segment == self._current:
                self._is_withdrawn = True

    def close(self) -> None:
        """Compress what waits, and end the thread."""
        with self._changed:
            self._is_closing = True
            self._changed.notify()
        if self._thread is not None:
            self._thread.join()

    def _work(self) -> None:
        lower_priority()
        while (segment := self._next()) is not None:
            with contextlib.suppress(OSError):  # it stays as it is, and is read so
                write_compressed(segment, lambda: not self._is_withdrawn)
                self._take(segment)

    def _next(self) -> Segment | None:
        """Wait for a segment, which is then the current one; None if there will be no more."""
        with self._changed:
            self._current, self._is_withdrawn = None, False
            while not self._waiting:
                if self._is_closing:
                    return None
                self._changed.wait()
            self._current = self._waiting.popleft()
            return self._current

    def _take(self, segment: Segment) -> None:
        # Under the lock, so that a segment that is withdrawn does not come back after it was removed.
        with self._changed:
            if self._is_withdrawn:
                segment.unfinished.unlink(missing_ok=True)
            else:
                take_compressed(segment)


def lower_priority() -> None:
    """Let every other thread of this machine run before the calling one. Only Linux, macOS and Windows do that for a
    single thread."""
    with contextlib.suppress(OSError, AttributeError):
        if sys.platform == "linux":
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICENESS)
        elif sys.platform == "darwin":
            os.setpriority(DARWIN_THREAD, 0, DARWIN_BACKGROUND)
        elif sys.platform == "win32":
            kernel = ctypes.WinDLL("kernel32")
            kernel.SetThreadPriority(kernel.GetCurrentThread(), WINDOWS_LOWEST)
