"""The closed segments of one log: closes them, has them compressed, and removes the oldest."""

import bisect
import contextlib
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import msgspec
from msgspec import Struct

from loadgen.engine.soak.compressor import Compressor
from loadgen.store.segments import DAMAGED, EndedLine, Segment, cut_torn_line, segments_of, unfinished_of

WINDOWS: Final = "windows.jsonl"


class Span(Struct):
    """The windows of the records in a file; None if there are only records of a warm-up."""

    first: int | None = None
    last: int | None = None

    def add(self, window: int | None) -> None:
        """Records nearly come in the order of their windows, but a worker's clock is read before it writes."""
        if window is not None:
            self.first = window if self.first is None else min(self.first, window)
            self.last = window if self.last is None else max(self.last, window)

    def join(self, other: "Span") -> None:
        self.add(other.first)
        self.add(other.last)


class ClosedSegments:
    """What has been split off a log. Those that an earlier process left are taken over.

    Raises OSError where a file cannot be renamed or removed.
    """

    def __init__(self, log: Path) -> None:
        self.log = log
        self._compressor = Compressor()
        for path in unfinished_of(log):
            path.unlink(missing_ok=True)
        segments = segments_of(log)
        self._next_number = segments[-1].number + 1 if segments else 1
        self._spans: dict[Segment, Span] = {}
        cut_torn_line(log)
        if log.exists() and log.stat().st_size:
            self.add_log(Span())
        segments = segments_of(log)
        self._spans = dict(zip(segments, _spans_of(segments), strict=True))
        self._compress_plain(segments)

    @property
    def compressing(self) -> Segment | None:
        """The segment that is being compressed."""
        return self._compressor.current

    def add_log(self, span: Span) -> None:
        """Make the log, which nobody writes now, the newest of its segments. span: its windows."""
        segment = Segment(self.log, self._next_number)
        self.log.rename(segment.plain)
        self._next_number += 1
        self._spans[segment] = span
        self._compress_plain(segments_of(self.log))

    def segments(self) -> list[Segment]:
        """Those that are there, oldest first."""
        return segments_of(self.log)

    def remove(self, segment: Segment) -> Span | None:
        """Remove a segment; returns its windows. None if it is being compressed, and so cannot be removed now."""
        if not self._compressor.withdraw(segment):
            return None
        for path in (segment.plain, segment.compressed):
            path.unlink(missing_ok=True)
        return self._spans.pop(segment, Span())

    def close(self) -> None:
        """Compress what is not compressed yet."""
        self._compressor.close()

    def _compress_plain(self, segments: Sequence[Segment]) -> None:
        # All of them, because the disk may have been too full for an older one.
        for segment in segments:
            if segment.plain.exists():
                self._compressor.add(segment)


def _spans_of(segments: Sequence[Segment]) -> list[Span]:
    """The windows of segments that another process has left: from that of a segment's first record to that of the next
    segment's first."""
    if not segments:
        return []
    windows = _window_starts(segments[0].log.parent)
    starts = [start_ns for start_ns, _ in windows]

    def window_at(moment_ns: int | None) -> int | None:
        place = 0 if moment_ns is None else bisect.bisect_right(starts, moment_ns)
        return windows[place - 1][1] if place else None

    firsts = [window_at(_first_end_ns(segment)) for segment in segments]
    lasts = [*firsts[1:], windows[-1][1] if windows else None]
    spans = []
    for first, last in zip(firsts, lasts, strict=True):
        span = Span()
        span.add(first)
        span.add(last)
        spans.append(span)
    return spans


class _Window(Struct, frozen=True):
    window: int
    start_ns: int


def _window_starts(folder: Path) -> list[tuple[int, int]]:
    """When each window of a folder began, and its number, in order."""
    starts = set()
    with contextlib.suppress(FileNotFoundError), (folder / WINDOWS).open("rb") as file:
        for line in file:
            with contextlib.suppress(msgspec.MsgspecError, UnicodeDecodeError):
                window = msgspec.json.decode(line, type=_Window)
                starts.add((window.start_ns, window.window))
    return sorted(starts)


def _first_end_ns(segment: Segment) -> int | None:
    """When the request of a segment's first line ended; None if the line cannot be read."""
    with contextlib.suppress(OSError, *DAMAGED, msgspec.MsgspecError, UnicodeDecodeError):
        if (file := segment.open()) is not None:
            with file:
                return msgspec.json.decode(file.readline(), type=EndedLine).at_ns
    return None
