"""The closed segments of one log: closes them, has them compressed, and removes the oldest."""

import contextlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import msgspec
from msgspec import Struct

from loadgen.engine.soak.compressor import Compressor
from loadgen.store.segments import EndedLine, Segment, cut_torn_line, segments_of, unfinished_of

LAST_LINE_BYTES: Final = 1 << 20
"""How much of the end of a segment is read to find its last line."""


class Span(Struct):
    """When the records of a file ended, since the run began, ns. None: it has no record."""

    first_ns: int | None = None
    last_ns: int | None = None

    def add(self, moment_ns: int | None) -> None:
        # Records come nearly in the order in which they ended, but not quite.
        if moment_ns is not None:
            self.first_ns = moment_ns if self.first_ns is None else min(self.first_ns, moment_ns)
            self.last_ns = moment_ns if self.last_ns is None else max(self.last_ns, moment_ns)

    def join(self, other: "Span") -> None:
        self.add(other.first_ns)
        self.add(other.last_ns)


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
        cut_torn_line(log)
        last_ns = _last_end_ns(log)
        if log.exists() and log.stat().st_size:
            segments.append(self._close_log())
        self._spans = dict(zip(segments, _spans_of(segments, last_ns), strict=True))
        self._compress_plain(segments)

    @property
    def is_compressing(self) -> bool:
        return self._compressor.is_busy

    def go_on(self) -> None:
        """Take what has been compressed since the last call. Never waits."""
        self._compressor.go_on()

    def add_log(self, span: Span) -> None:
        """Make the log, which nobody writes now, the newest of its segments. span: the times of its records."""
        self._spans[self._close_log()] = span
        self._compress_plain(segments_of(self.log))

    def segments(self) -> list[Segment]:
        """Those that are there, oldest first."""
        return segments_of(self.log)

    def remove(self, segment: Segment) -> Span:
        """Remove a segment; returns the times of its records."""
        self._compressor.withdraw(segment)
        for path in (segment.plain, segment.compressed):
            path.unlink(missing_ok=True)
        return self._spans.pop(segment, Span())

    def close(self) -> None:
        """Compress what is not compressed yet."""
        self._compressor.close()

    def _close_log(self) -> Segment:
        segment = Segment(self.log, self._next_number)
        self.log.rename(segment.plain)
        self._next_number += 1
        return segment

    def _compress_plain(self, segments: Sequence[Segment]) -> None:
        # All of them, because the disk may have been too full for an older one.
        for segment in segments:
            if segment.plain.exists():
                self._compressor.add(segment)


def _spans_of(segments: Sequence[Segment], last_ns: int | None) -> list[Span]:
    """The times of segments that an earlier process has left: from a segment's first record to the next one's first.
    last_ns: of the last record."""
    firsts = [segment.first_end_ns() for segment in segments]
    return [Span(first, last) for first, last in zip(firsts, [*firsts, last_ns][1:], strict=True)]


def _last_end_ns(log: Path) -> int | None:
    """When the request of a log's last line ended; None if that is not known."""
    with contextlib.suppress(OSError, IndexError, msgspec.MsgspecError, UnicodeDecodeError):
        with log.open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - LAST_LINE_BYTES))
            last_line = file.read().splitlines()[-1]
        return msgspec.json.decode(last_line, type=EndedLine).at_ns
    return None
