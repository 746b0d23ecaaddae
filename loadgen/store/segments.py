"""Which files hold the records of a run, and in which order they are read.

A log is `requests.jsonl`, or of a worker `requests.w0.jsonl`. A soak splits segments off its log while it goes on:
`requests-00001.jsonl` and so on, of a worker `requests.w0-00001.jsonl`, which are then compressed to
`requests-00001.jsonl.gz`. The oldest segments may be gone, because a soak stays within a budget of disk.

Whatever ends the process that writes, every line is in exactly one of the files that are read here. A segment gets its
name in one step; its compressed form gets its name when it is complete, and until the plain form is removed, the plain
form alone is read.
"""

import contextlib
import gzip
import os
import re
import zlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import IO, Final, cast

import msgspec
from msgspec import Struct

DAMAGED: Final = (EOFError, zlib.error, gzip.BadGzipFile)
"""What reading a compressed segment raises if it is damaged."""

_NAME: Final = re.compile(r"(?P<log>requests(?:\.w\d+)?)(?:-(?P<number>\d{5,}))?\.jsonl(?P<gz>\.gz)?")
_DROPPED: Final = re.compile(r"(?:from )?windows? (?P<first>\d+)(?: to (?P<last>\d+)|(?P<on> on))?:")
TAIL_BYTES: Final = 1 << 16
_TRIES: Final = 10
_UNFINISHED: Final = ".jsonl.gz.part"


class EndedLine(Struct, frozen=True):
    """The line of a record, read only for when its request ended."""

    intended_ns: int
    end_ns: int | None = None

    @property
    def at_ns(self) -> int:
        """When it ended, or was due if it was never sent."""
        return self.intended_ns if self.end_ns is None else self.end_ns


class Segment(Struct, frozen=True, order=True):
    """A closed segment of a log."""

    log: Path
    number: int
    """From 1, in the order in which they were closed."""

    @property
    def plain(self) -> Path:
        return self.log.with_name(f"{self.log.stem}-{self.number:05}.jsonl")

    @property
    def compressed(self) -> Path:
        return self.log.with_name(f"{self.log.stem}-{self.number:05}.jsonl.gz")

    @property
    def unfinished(self) -> Path:
        """The compressed form while it is being written. It is never read."""
        return self.log.with_name(f".{self.log.stem}-{self.number:05}{_UNFINISHED}")

    def open(self) -> IO[bytes] | None:
        """The segment, open for reading; None if it has been removed."""
        with contextlib.suppress(FileNotFoundError):
            return self.plain.open("rb")
        with contextlib.suppress(FileNotFoundError):
            return cast(IO[bytes], gzip.open(self.compressed, "rb"))
        return None

    def first_end_ns(self) -> int | None:
        """When the request of its first line ended; None if the line cannot be read."""
        with self.open() or contextlib.nullcontext() as file:
            return None if file is None else _first_end_ns(file)


def log_of(name: str) -> str | None:
    """The name of the log to which a file with this name belongs, as the log itself or a segment; None if it holds no
    records."""
    match = _NAME.fullmatch(name)
    return f"{match['log']}.jsonl" if match and (match["number"] or not match["gz"]) else None


def logs_in(folder: Path) -> list[Path]:
    """The logs of a folder, by name, including those of which only segments are there. Empty if it cannot be listed."""
    try:
        names = [path.name for path in folder.iterdir()]
    except OSError:
        return []
    logs = {log for log in map(log_of, names) if log is not None}
    return [folder / log for log in sorted(logs)]


def segments_of(log: Path, names: Iterable[str] | None = None) -> list[Segment]:
    """The closed segments of a log that are there, oldest first. names: the names in its folder, if they are known."""
    if names is None:
        try:
            names = [path.name for path in log.parent.iterdir()]
        except OSError:
            return []
    matches = filter(None, map(_NAME.fullmatch, names))
    numbers = {int(match["number"]) for match in matches if match["log"] == log.stem and match["number"]}
    return [Segment(log, number) for number in sorted(numbers)]


def open_files(log: Path, from_ns: int | None = None) -> Iterator[IO[bytes]]:
    """The files of a log in their order, each open for reading until the next is asked for. A log may be written,
    split and shortened meanwhile; what was in it at the beginning and is still there is read once.

    from_ns: leaves out the segments whose records all ended before this moment since the run began. Raises OSError.
    """
    newest, segments = _snapshot(log)
    with newest or contextlib.nullcontext():
        for segment in segments if from_ns is None else _recent(segments, newest, from_ns):
            if (file := segment.open()) is not None:
                with file:
                    yield file
        if newest is not None:
            yield newest


def _recent(segments: Sequence[Segment], newest: IO[bytes] | None, from_ns: int) -> list[Segment]:
    """The last of the segments, from the one with the first record that ended at a moment or later."""
    first_ns = None
    if newest is not None:
        first_ns = _first_end_ns(newest)
        newest.seek(0)
    recent: list[Segment] = []
    for segment in reversed(segments):
        if first_ns is not None and first_ns < from_ns:
            break
        recent.insert(0, segment)
        first_ns = segment.first_end_ns()
    return recent


def _first_end_ns(file: IO[bytes]) -> int | None:
    """When the request of a file's first line ended; None if the line cannot be read."""
    with contextlib.suppress(OSError, *DAMAGED, msgspec.MsgspecError, UnicodeDecodeError):
        return msgspec.json.decode(file.readline(), type=EndedLine).at_ns
    return None


def _snapshot(log: Path) -> tuple[IO[bytes] | None, list[Segment]]:
    """The log, open, None if it is not there, and the segments that were split off before it."""
    for attempt in range(1, _TRIES + 1):
        file = _open(log)
        segments = segments_of(log)
        # The log may have become a segment between the two; it would then be read twice.
        if attempt == _TRIES or _is_at(log, file):
            return file, segments
        if file is not None:
            file.close()
    raise AssertionError


def _open(log: Path) -> IO[bytes] | None:
    try:
        return log.open("rb")
    except FileNotFoundError:
        return None


def _is_at(log: Path, file: IO[bytes] | None) -> bool:
    """Whether the path leads to this open file; of None, whether it leads to none."""
    try:
        there = log.stat()
    except FileNotFoundError:
        return file is None
    return file is not None and os.path.samestat(there, os.fstat(file.fileno()))


def is_unfinished(name: str) -> bool:
    """Whether a file with this name is the compressed form of a segment while it is being written."""
    return name.startswith(".requests") and name.endswith(_UNFINISHED)


def unfinished_of(log: Path) -> list[Path]:
    """The compressed forms of a log's segments that a process which was killed left half written."""
    return sorted(log.parent.glob(f".{log.stem}-*{_UNFINISHED}"))


def cut_torn_line(log: Path) -> None:
    """Cut a log after its last complete line, if it is there. Raises OSError."""
    with contextlib.suppress(FileNotFoundError), log.open("r+b") as file:
        end = file.seek(0, os.SEEK_END)
        while end:
            start = max(0, end - TAIL_BYTES)
            file.seek(start)
            newline = file.read(end - start).rfind(b"\n")
            if newline >= 0:
                end = start + newline + 1
                break
            end = start
        file.truncate(end)


def windows_in_words(first: int, last: int) -> str:
    """The windows of records that were removed, as an event begins with them."""
    return f"window {first}" if first == last else f"windows {first} to {last}"


def windows_without_records(details: Iterable[str], count: int) -> int:
    """How many windows do not have all of their records any more. details: of all events `records_dropped`. count: how
    many windows there are."""
    dropped: set[int] = set()
    for match in filter(None, map(_DROPPED.match, details)):
        first = int(match["first"])
        last = count - 1 if match["on"] else int(match["last"] or first)
        dropped.update(range(first, last + 1))
    return len(dropped)
