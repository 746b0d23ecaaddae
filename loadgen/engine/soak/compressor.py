"""Compresses the closed segments of a log, one after another, in a thread of low priority."""

import contextlib
import os
import sys
import threading
import zlib
from collections import deque
from collections.abc import Callable
from typing import Final

from loadgen.store.segments import Segment

LEVEL: Final = 6
CHUNK_BYTES: Final = 64 << 10
"""How much is compressed without a pause, a few milliseconds of work. The interpreter's lock is free meanwhile."""
PAUSE_S: Final = 0.02
NICENESS: Final = 19
_GZIP: Final = 31
"""zlib's number for the format of gzip. Its header then has no time, so that equal lines make equal files."""


def compress_segment(segment: Segment, pause: Callable[[], None] = lambda: None) -> None:
    """Replace a segment by its compressed form. pause: called after each chunk.

    Raises OSError, with the segment as it was: it may have been removed, or the disk may be full.
    """
    stream = zlib.compressobj(LEVEL, zlib.DEFLATED, _GZIP)
    try:
        with segment.plain.open("rb", buffering=0) as source, segment.unfinished.open("wb") as target:
            while chunk := source.read(CHUNK_BYTES):
                target.write(stream.compress(chunk))
                pause()
            target.write(stream.flush())
            target.flush()
            # Before the plain form is removed, so that a loss of power leaves one of the two.
            os.fsync(target.fileno())
        segment.unfinished.replace(segment.compressed)
    except BaseException:
        with contextlib.suppress(OSError):
            segment.unfinished.unlink(missing_ok=True)
        raise
    segment.plain.unlink(missing_ok=True)


class Compressor:
    """The thread, and the segments that wait for it."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        """Guards the two below."""
        self._waiting: deque[Segment] = deque()
        self._current: Segment | None = None
        self._closing = threading.Event()
        self._thread: threading.Thread | None = None

    @property
    def current(self) -> Segment | None:
        """The segment that is being compressed."""
        return self._current

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

    def withdraw(self, segment: Segment) -> bool:
        """Do not compress a segment, which may then be removed. False if that has begun."""
        with self._changed:
            if segment in self._waiting:
                self._waiting.remove(segment)
            return segment != self._current

    def close(self) -> None:
        """Compress what waits, without pauses, and end the thread."""
        self._closing.set()
        with self._changed:
            self._changed.notify()
        if self._thread is not None:
            self._thread.join()

    def _work(self) -> None:
        lower_priority()
        while self._next() is not None:
            with contextlib.suppress(OSError):  # it stays as it is, and is read so
                assert self._current is not None
                compress_segment(self._current, self._pause)

    def _next(self) -> Segment | None:
        """Wait for a segment, which is then the current one; None if there will be no more."""
        with self._changed:
            self._current = None
            while not self._waiting:
                if self._closing.is_set():
                    return None
                self._changed.wait()
            self._current = self._waiting.popleft()
            return self._current

    def _pause(self) -> None:
        # Not while others wait: their plain forms take three times the disk.
        if not self._waiting:
            self._closing.wait(PAUSE_S)


def lower_priority() -> None:
    """Let other threads of this machine run before the calling one, where the system can do that for one thread."""
    if sys.platform == "linux":
        with contextlib.suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICENESS)
