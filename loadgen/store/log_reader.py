"""Reads the log of a run while another process writes it."""

import errno
import os
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, Final

import msgspec

from loadgen.record import Record
from loadgen.store.run_folder import decoded_lines, no_longer_written
from loadgen.store.segments import open_files

READ_BYTES: Final = 1 << 20
"""How much is read at once."""


class LogReader:
    """Reads the records of a log that another process writes, up to the size that this process reports.

    Raises FolderError if the log cannot be read, because the folder or its disk is gone.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: BinaryIO | None = None
        self._decode = msgspec.json.Decoder(Record).decode
        self._at = 0

    @property
    def folder(self) -> Path:
        """The run folder."""
        return self._path.parent

    def read_to(self, size: int) -> Iterator[Record]:
        """The records in the log's first `size` bytes that have not been read yet. These bytes end with a line."""
        rest = b""
        while self._at < size:
            *lines, rest = (rest + self._read(size - self._at)).split(b"\n")
            for line in lines:
                yield self._decode(line)

    def close(self) -> None:
        if self._file is not None:
            self._file.close()

    def _read(self, size: int) -> bytes:
        try:
            if self._file is None:
                self._file = self._path.open("rb", buffering=0)
            chunk = self._file.read(min(size, READ_BYTES))
            if not chunk:  # the file is shorter than reported: it was truncated
                raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
        except OSError as error:
            raise no_longer_written(self._path.parent, error) from error
        self._at += len(chunk)
        return chunk


def records_since(log: Path, from_ns: int) -> Iterator[Record]:
    """The records of a log that ended at a moment since the run began, or later; those of a process that was lost.
    Lines that cannot be read are left out. Raises OSError."""
    return (record for record in recent_records(log, from_ns) if record.ended_ns >= from_ns)


def recent_records(log: Path, from_ns: int) -> Iterator[Record]:
    """As `records_since`, with those that ended before and are in the same files."""
    decoder = msgspec.json.Decoder(Record)
    for file in open_files(log, from_ns):
        yield from (record for record in decoded_lines(file, decoder) if record is not None)
