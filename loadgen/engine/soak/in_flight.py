"""The files `in_flight*.jsonl`: which requests have begun and have not ended, in case this process is killed.

A line is written when a measured request begins, and another when it has ended. Whenever the file has grown, it is
replaced by one that has only the requests in flight. It is not synchronized with the disk, so it survives the death of
the process, and not that of the machine.
"""

import contextlib
from collections.abc import Iterable
from pathlib import Path
from typing import Final

import msgspec
from msgspec import Struct

from loadgen.errors import FolderError
from loadgen.live.sink import NullSink
from loadgen.record import BegunRequest, Record
from loadgen.store.run_folder import Log

IN_FLIGHT: Final = "in_flight.jsonl"
FILES: Final = "in_flight*.jsonl"
MAX_BYTES: Final = 256 << 10
"""A longer file is replaced, unless that many bytes are of requests in flight."""

_Key = tuple[str, str, str, int]


class BeginLine(Struct, frozen=True, tag_field="is", tag="begun"):
    """A request has begun."""

    request: BegunRequest


class EndLine(Struct, frozen=True, tag_field="is", tag="ended"):
    """The last attempt of a request has ended, and has its record."""

    model: str
    target: str
    level: str
    index: int


class InFlightLog(NullSink):
    """The sink that writes such a file. It comes after the log of the records.

    If the disk is full, it writes nothing more and raises nothing: the soak goes on.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._in_flight: dict[_Key, BegunRequest] = {}
        self._last: BegunRequest | None = None
        """The one that began last, whether it has ended or not: an index is never used twice."""
        self._limit_bytes = MAX_BYTES
        self._log: Log | None = Log(path)

    def begin_request(self, request: BegunRequest) -> None:
        self._last = self._in_flight[_key(request)] = request
        self._append(BeginLine(request))

    def record(self, record: Record) -> None:
        if record.phase == "measured" and self._in_flight.pop(_key(record), None) is not None:
            self._append(EndLine(record.model, record.target, record.level, record.index))

    def close(self) -> None:
        """Close the file. It stays, because a soak that was stopped may go on at the next request."""
        if self._log is not None:
            self._log.close()

    def _append(self, line: BeginLine | EndLine) -> None:
        if self._log is None:
            return
        try:
            self._log.append(line)
            if self._log.size > self._limit_bytes:
                self._replace()
        except (FolderError, OSError):
            self._log.close()
            self._log = None
            # What it says would be wrong soon: requests that have ended would pass for lost ones.
            with contextlib.suppress(OSError):
                self._path.unlink()

    def _replace(self) -> None:
        """Replace the file by one without the requests that have ended."""
        assert self._log is not None
        new = self._path.with_name(f".{self._path.name}")
        new.unlink(missing_ok=True)
        log = Log(new)
        for request in self._in_flight.values():
            log.append(BeginLine(request))
        if self._last is not None and _key(self._last) not in self._in_flight:
            log.append(BeginLine(self._last))
            log.append(EndLine(self._last.model, self._last.target, self._last.level, self._last.index))
        new.replace(self._path)
        self._log.close()
        self._log = log
        self._limit_bytes = max(MAX_BYTES, 2 * log.size)


def in_flight_path_of(log: Path) -> Path:
    """The file beside the log of a worker: in_flight.w0.jsonl beside requests.w0.jsonl."""
    return log.with_name(log.name.replace("requests", "in_flight", 1))


class Begun(Struct, frozen=True):
    """What the files of a soak say that was killed."""

    in_flight: tuple[BegunRequest, ...]
    """The requests that had begun, and whose end is in no file. Some may have a record all the same."""
    last_index: int
    """The highest index that is known; -1 if there is none."""


def remove_in_flight(folder: Path) -> None:
    """Remove such files from a folder, in which nothing is in flight any more."""
    for path in folder.glob(FILES):
        with contextlib.suppress(OSError):
            path.unlink()


def read_in_flight(paths: Iterable[Path], level: str) -> Begun:
    """Read such files, as far as they concern a level. A line that was torn is left out."""
    decoder = msgspec.json.Decoder(BeginLine | EndLine)
    in_flight: dict[_Key, BegunRequest] = {}
    last_index = -1
    for path in paths:
        with contextlib.suppress(FileNotFoundError):
            for text in path.read_bytes().splitlines():
                with contextlib.suppress(msgspec.MsgspecError, UnicodeDecodeError):
                    match decoder.decode(text):
                        case BeginLine(request) if request.level == level:
                            in_flight[_key(request)] = request
                            last_index = max(last_index, request.index)
                        case EndLine() as ended:
                            in_flight.pop(_key(ended), None)
    return Begun(tuple(in_flight.values()), last_index)


def _key(request: BegunRequest | Record | EndLine) -> _Key:
    return request.target, request.model, request.level, request.index
