"""Has the closed segments of a log compressed, one after another, by a process of low priority."""

import contextlib
from collections import deque
from pathlib import Path
from typing import Final

from loadgen.child import BackgroundProcess
from loadgen.engine.soak import compress_program
from loadgen.store.segments import Segment

PROGRAM: Final = Path(compress_program.__file__)


def take_compressed(segment: Segment) -> None:
    """Give the compressed form its name, and remove the plain one. Raises OSError."""
    segment.unfinished.replace(segment.compressed)
    segment.plain.unlink(missing_ok=True)


class Compressor:
    """The process, which lives only while a segment is compressed, and the segments that wait for it."""

    def __init__(self) -> None:
        self._waiting: deque[Segment] = deque()
        self._current: Segment | None = None
        """The segment that is being compressed."""
        self._process: BackgroundProcess | None = None
        """What compresses it."""

    @property
    def is_busy(self) -> bool:
        """Whether a segment is being compressed, or has been and is not taken yet."""
        return self._process is not None

    def add(self, segment: Segment) -> None:
        """Have a segment compressed, if it does not wait already."""
        if segment != self._current and segment not in self._waiting:
            self._waiting.append(segment)
            self.go_on()

    def go_on(self) -> None:
        """Take what has been compressed, and begin with the next segment. Never waits."""
        if self._process is None or self._process.exit_code is not None:
            self._take()
            self._begin()

    def withdraw(self, segment: Segment) -> None:
        """Do not compress a segment, or forget what has been compressed of it. It may be removed then."""
        if segment in self._waiting:
            self._waiting.remove(segment)
        if segment == self._current and self._process is not None:
            self._process.end()
            self._process = self._current = None
            segment.unfinished.unlink(missing_ok=True)

    def close(self) -> None:
        """Compress what waits."""
        self.go_on()
        while self._process is not None:
            self._process.wait()
            self.go_on()

    def _begin(self) -> None:
        while self._process is None and self._waiting:
            self._current = self._waiting.popleft()
            # A segment that cannot be compressed now stays as it is, and is read so.
            with contextlib.suppress(OSError):
                self._process = BackgroundProcess(PROGRAM, self._current.plain, self._current.unfinished)

    def _take(self) -> None:
        """Take what the process has compressed, which has ended; nothing if it failed."""
        process, segment = self._process, self._current
        self._process = self._current = None
        if process is None or segment is None:
            return
        process.end()
        with contextlib.suppress(OSError):
            if process.exit_code == 0:
                take_compressed(segment)
            else:
                segment.unfinished.unlink(missing_ok=True)
