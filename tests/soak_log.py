"""A soak's log of records in a folder of its own, with a clock, a disk and events that a test sets by hand."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest

from loadgen.engine.soak.compress_program import compress_file
from loadgen.engine.soak.compressor import Compressor, take_compressed
from loadgen.engine.soak.disk import Space
from loadgen.engine.soak.segments import SegmentLog, SegmentSettings
from loadgen.record import Record
from loadgen.store.run_folder import REQUESTS, records_in
from loadgen.store.segments import Segment
from loadgen.store.windows import WINDOWS
from tests.records import record

S = 1_000_000_000
WINDOW_NS = 60 * S
MIB = 1 << 20


class HandClock:
    """A clock that stands until a test moves it."""

    def __init__(self) -> None:
        self.moment_ns = 7_000 * S

    def now_ns(self) -> int:
        return self.moment_ns

    async def sleep_until_ns(self, deadline_ns: int) -> None:
        raise NotImplementedError


class SoakLog:
    """The log, and what stands around it. `write` takes records one after another, each a second after the other."""

    def __init__(self, folder: Path, *, name: str = REQUESTS, space: Space | None = None, **settings: Any) -> None:
        self.folder = folder
        self.clock = HandClock()
        self.space = space or Space(total=1 << 40, free=1 << 39)
        self.events: list[tuple[str, str]] = []
        self.written = 0
        self.log = SegmentLog(
            folder / name,
            SegmentSettings(**{"budget_bytes": 1 << 40, **settings}),
            self,
            self.clock,
            space_of=lambda _: self.space,
        )

    def record(self, kind: str, detail: str) -> None:
        """Take an event, as an `EventLog` does."""
        self.events.append((kind, detail))

    def write(self, count: int, **changes: Any) -> None:
        for _ in range(count):
            self._close_window()
            self.log.record(soak_record(self.written, **changes))
            self.written += 1
            self.clock.moment_ns += S

    def _close_window(self) -> None:
        """Write the window that is over, of two models, as far as this log reads it."""
        window, rest = divmod(self.written * S, WINDOW_NS)
        if rest or not window:
            return
        with (self.folder / WINDOWS).open("ab") as file:
            times = {"start_ns": (window - 1) * WINDOW_NS, "end_ns": window * WINDOW_NS}
            file.write(2 * (orjson.dumps({"window": window - 1, **times}) + b"\n"))

    @property
    def details(self) -> list[str]:
        return [detail for _, detail in self.events]

    @property
    def names(self) -> list[str]:
        """The files with records, by name."""
        return sorted(path.name for path in self.folder.glob("*requests*"))

    @property
    def indices(self) -> list[int]:
        """Which records can be read, in the order in which they are."""
        return indices_in(self.folder)


def soak_record(index: int, **changes: Any) -> Record:
    """The record of a request that ended in second `index` of the run."""
    return record(index=index, intended_ns=index * S, end_ns=index * S, **changes)


def indices_in(folder: Path) -> list[int]:
    return [record.index if record else -1 for record in records_in(folder)]


def bytes_in(folder: Path) -> int:
    """What a folder takes, looked at from outside."""
    size = 0
    for path in folder.iterdir():
        with contextlib.suppress(FileNotFoundError):  # a segment that was compressed meanwhile
            size += path.stat().st_size
    return size


def windows_of(indices: range | list[int]) -> Iterator[int]:
    return (index * S // WINDOW_NS for index in indices)


def compress_in_process(patch: pytest.MonkeyPatch) -> None:
    """Each segment is compressed at once, in this process: one of its own takes longer to start than to compress."""
    patch.setattr(Compressor, "add", lambda _, segment: compress_segment(segment))


def compress_segment(segment: Segment) -> None:
    """Replace a segment by its compressed form, at once. Raises OSError."""
    compress_file(str(segment.plain), str(segment.unfinished))
    take_compressed(segment)
