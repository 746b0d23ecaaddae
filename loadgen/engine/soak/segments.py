"""The log of a soak's records, in segments, within the disk budget of the run folder.

Records go to `requests.jsonl`. After an hour, or when it is large, it is closed, renamed and compressed beside the run,
and a new one begins (`loadgen.store.segments` has the names). The rule, in this order:

1. What is not records is never removed. Records have what the rest of the budget leaves.
2. If that is not enough, the oldest closed segments are removed, and an event names their windows.
3. The same if the file system is low on space. If there is no closed segment any more, no more records are written.

So the folder is never above its budget. All that a soak reports comes from its windows, which go on.
"""

import contextlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Final, Literal, Protocol

import msgspec
from msgspec import Struct

from loadgen.clock import Clock
from loadgen.engine.soak.closed_segments import ClosedSegments, Span
from loadgen.engine.soak.disk import Room, Space, SpaceOf, room_of, space_of
from loadgen.engine.soak.window_numbers import WindowNumbers
from loadgen.record import Record, StageFacts
from loadgen.redact import redact_key_bytes
from loadgen.store.run_folder import NO_SPACE, REQUESTS, no_longer_written
from loadgen.store.segments import windows_in_words

MAX_BYTES: Final = 64 << 20
MAX_AGE_NS: Final = 3600 * 10**9
PARTS_OF_ROOM: Final = 8
"""While a segment is compressed, there are the next one, itself, and its compressed form, beside older ones."""
CHECK_NS: Final = 10**9
"""How often the log's name and the free space are looked at."""
LEASE_BYTES: Final = 1 << 20
PARTS_OF_LEASE: Final = 64
"""How much is written, at most, before the room is computed again. The other files grow meanwhile."""

_encode: Final = msgspec.json.Encoder().encode

FileChange = Literal["renamed", "removed", "cut off"]
"""What somebody did to a log that is being written."""


SegmentEvent = Literal["records_dropped", "records_reopened", "disk_low"]


class Events(Protocol):
    """Takes the events of a log: an `EventLog`, or in a worker what sends them to the parent process."""

    def record(self, kind: SegmentEvent, detail: str) -> None: ...


class SegmentSettings(Struct, frozen=True, kw_only=True):
    """When a log is split, and how much disk it may take."""

    budget_bytes: int
    """The most that the run folder may take, with everything in it."""
    logs: tuple[str, ...] = (REQUESTS,)
    """The names of the logs that are written in the folder, one for each worker. They share the budget equally."""
    max_bytes: int = MAX_BYTES
    max_age_ns: int = MAX_AGE_NS


class WorkerLogs(Struct, frozen=True):
    """How the workers of a soak write their records."""

    settings: SegmentSettings
    events: Events


class SegmentLog:
    """The sink that writes a soak's records, one line per attempt. It comes first, so that other sinks get a record
    only after it is on disk."""

    def __init__(
        self,
        log: Path,
        settings: SegmentSettings,
        events: Events,
        clock: Clock,
        *,
        space_of: SpaceOf = space_of,
    ) -> None:
        """log: its path. What an earlier process has written there becomes a segment.
        Raises FolderError if the folder cannot be written.
        """
        self._settings = settings
        self._events = events
        self._clock = clock
        self._windows = WindowNumbers(log.parent)
        self._space_of = space_of
        self._is_full = False
        """Whether no more records are written."""
        self._limit_bytes = 0
        """How large the file may become before the room is computed again."""
        self._check_at_ns = clock.now_ns()
        try:
            self._closed = ClosedSegments(log)
            self._file = OpenFile(log, clock.now_ns(), Span())
        except OSError as error:
            raise no_longer_written(log.parent, error) from error

    def start(self, stage: object) -> None:
        """Does nothing, because each record names its stage."""

    def record(self, record: Record) -> None:
        if self._is_full:
            return
        line = redact_key_bytes(_encode(record)) + b"\n"
        at_ns = record.ended_ns
        try:
            if self._clock.now_ns() >= self._check_at_ns:
                self._check()
            if self._file.size + len(line) > self._limit_bytes:
                self._make_room(len(line), at_ns)
            if not self._is_full:
                self._write(line, at_ns)
        except OSError as error:
            raise no_longer_written(self._closed.log.parent, error) from error

    def retry(self, record: Record) -> None:
        self.record(record)

    def stop(self, facts: StageFacts) -> None:
        """Does nothing, because facts have their own log."""

    def check(self) -> None:
        """Look whether the log is still where it was, whether it is old, and whether the disk has free space.

        The first record of each second has this done. Call it too while no request ends. Raises FolderError.
        """
        try:
            self._check()
        except OSError as error:
            raise no_longer_written(self._closed.log.parent, error) from error

    def tick(self, now_ns: int) -> None:
        """As `check`, while measured requests are played."""
        self.check()

    def drain(self, at_ns: int) -> None:
        """Does nothing: what ends later has records too."""

    def split(self) -> None:
        """Close the segment that is being written, and begin the next one. Raises FolderError."""
        try:
            self._split()
        except OSError as error:
            raise no_longer_written(self._closed.log.parent, error) from error

    def close(self) -> None:
        """Close the log. Its closed segments are compressed when this returns."""
        self._file.close()
        self._closed.close()

    def _check(self) -> None:
        self._closed.go_on()
        if self._is_full:
            return
        now_ns = self._clock.now_ns()
        self._check_at_ns = now_ns + CHECK_NS
        change = self._file.change()
        if change is not None:
            self._reopen(change)
        if now_ns - self._file.opened_ns >= self._settings.max_age_ns:
            self._split()
        # While a segment is compressed, it takes space that is free again in a moment.
        if not self._closed.is_compressing and not self._is_full and self._space().is_low:
            self._free_disk(self._file.span.last_ns or 0, fewest=0)

    def _make_room(self, needed_bytes: int, at_ns: int) -> None:
        """Split the log if it is large, and remove the oldest segments, so that so many more bytes can be written."""
        if self._file.size + needed_bytes > self._most_bytes(self._room()):
            self._split()
            if self._is_full:
                return
        room = self._room()
        if room.left < needed_bytes:
            # Room for a whole segment, so that there is not an event for each of them.
            free_bytes = max(needed_bytes, self._most_bytes(room))
            why = f"the run folder may take {_format_bytes(self._settings.budget_bytes)}"
            self._remove_oldest(lambda: self._room().left >= free_bytes, why)
            room = self._room()
            if room.left < needed_bytes:
                self._end(why, at_ns)
        lease = min(LEASE_BYTES, self._settings.budget_bytes // PARTS_OF_LEASE, room.left)
        # At least this line: one that is larger than a segment has a segment of its own.
        self._limit_bytes = self._file.size + max(needed_bytes, min(self._most_bytes(room) - self._file.size, lease))

    def _room(self) -> Room:
        settings = self._settings
        return room_of(self._closed.log, settings.budget_bytes, settings.logs)

    def _most_bytes(self, room: Room) -> int:
        """How large a segment may be."""
        settings = self._settings
        return min(
            settings.max_bytes,
            room.allowed // PARTS_OF_ROOM,
            # So that on a small disk, too, there are several segments of which the oldest can be removed.
            (room.taken + self._space().free // len(settings.logs)) // PARTS_OF_ROOM,
        )

    def _space(self) -> Space:
        return self._space_of(self._closed.log.parent)

    def _free_disk(self, at_ns: int, fewest: int) -> None:
        """Remove the oldest segments, `fewest` or more, because the file system is low on space, or full."""
        space = self._space()
        why = f"{_format_bytes(space.free)} of the disk's {_format_bytes(space.total)} are free"
        self._events.record("disk_low", why)
        most_left = len(self._closed.segments()) - fewest

        def is_enough() -> bool:
            return len(self._closed.segments()) <= most_left and not self._space().is_low

        self._remove_oldest(is_enough, why)
        if not is_enough():
            self._end(why, at_ns)

    def _remove_oldest(self, is_enough: Callable[[], bool], why: str) -> None:
        """Remove the oldest closed segments until it is enough, or until none is left."""
        self._closed.go_on()  # one that has just been compressed may be enough
        segments, span, count = self._closed.segments(), Span(), 0
        while count < len(segments) and not is_enough():
            span.join(self._closed.remove(segments[count]))
            count += 1
        if count:
            files = "file" if count == 1 else "files"
            self._events.record(
                "records_dropped", f"{self._in_words(span)}: {count} {files} of records removed, because {why}"
            )

    def _end(self, why: str, at_ns: int) -> None:
        """Write no more records. at_ns: when the first one ended that is not written."""
        self._is_full = True
        first = self._windows.number_at(at_ns)
        self._events.record("records_dropped", f"from window {first} on: no records written, because {why}")

    def _write(self, line: bytes, at_ns: int) -> None:
        while not self._is_full:
            try:
                self._file.append(line)
            except OSError as error:
                if error.errno not in NO_SPACE:
                    raise
                self._free_disk(at_ns, fewest=1)
                continue
            if self._file.is_removed:  # bytes that nobody can read
                self._reopen("removed")
                continue
            self._file.span.add(at_ns)
            return

    def _open_file(self, opened_ns: int, span: Span) -> None:
        """Open the log after its file was closed. On a full disk, not even an empty file can be made."""
        self._limit_bytes = 0
        while not self._is_full:
            try:
                self._file = OpenFile(self._closed.log, opened_ns, span)
                return
            except OSError as error:
                if error.errno not in NO_SPACE:
                    raise
                self._free_disk(self._file.span.last_ns or 0, fewest=1)

    def _split(self) -> None:
        if self._is_full:
            return
        if (change := self._file.change()) is not None:
            self._reopen(change)
        if self._file.size == 0:
            return
        self._file.close()
        try:
            self._closed.add_log(self._file.span)
        except PermissionError:  # on Windows, somebody may be reading it; it is written on, and split later
            self._open_file(self._file.opened_ns, self._file.span)
        else:
            self._open_file(self._clock.now_ns(), Span())

    def _reopen(self, change: FileChange) -> None:
        """Write on in a file with the log's name, after somebody renamed, removed or cut off the log."""
        name = self._closed.log.name
        words = f"{name} was {change}"
        if change == "renamed" and (new_name := self._file.name_now) is not None:
            words += f" to {new_name}"
        elif change != "renamed" and self._file.size:
            words += f", with the records of {self._in_words(self._file.span)}"
        self._file.close()
        self._open_file(self._clock.now_ns(), Span())
        self._events.record("records_reopened", f"{words}; records go to a new {name}")

    def _in_words(self, span: Span) -> str:
        """The windows of records that are gone."""
        first_ns = span.first_ns or 0
        last_ns = first_ns if span.last_ns is None else span.last_ns
        return windows_in_words(self._windows.number_at(first_ns), self._windows.number_at(last_ns))


class OpenFile:
    """The file that records are written to. Each line is handed to the system at once. Raises OSError."""

    def __init__(self, path: Path, opened_ns: int, span: Span) -> None:
        self._path = path
        self._file = path.open("ab", buffering=0)
        self.opened_ns = opened_ns
        self.span = span
        """When its records ended."""
        self.size = os.fstat(self._file.fileno()).st_size

    @property
    def is_removed(self) -> bool:
        return os.fstat(self._file.fileno()).st_nlink == 0

    @property
    def name_now(self) -> str | None:
        """The name of the file after it was renamed; None if the system does not tell it."""
        try:
            return Path(f"/proc/self/fd/{self._file.fileno()}").readlink().name
        except OSError:
            return None

    def change(self) -> FileChange | None:
        """What somebody else did to the file; None if it is as it was left."""
        now = os.fstat(self._file.fileno())
        if now.st_nlink == 0:
            return "removed"
        try:
            is_there = os.path.samestat(self._path.stat(), now)
        except FileNotFoundError:
            is_there = False
        if not is_there:
            return "renamed"
        return "cut off" if now.st_size < self.size else None

    def append(self, line: bytes) -> None:
        """Write a line, all of it or nothing."""
        rest = memoryview(line)
        try:
            while rest:  # a disk that is almost full accepts a part, and refuses only the rest
                rest = rest[self._file.write(rest) :]
        except OSError:
            with contextlib.suppress(OSError):
                os.ftruncate(self._file.fileno(), self.size)
            raise
        self.size += len(line)

    def close(self) -> None:
        self._file.close()


def _format_bytes(count: int) -> str:
    from loadgen.report.format import format_bytes  # here, so that no worker waits for it

    return format_bytes(count)
