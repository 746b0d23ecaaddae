"""Standard input, output and error, which end no command whatever they are.

They may be missing (a daemon, pythonw), on a full disk, left by their reader, or in an encoding that lacks our signs:
what a command measured and its exit code do not depend on it.
"""

import codecs
import contextlib
import errno
import io
import os
import select
import sys
from collections.abc import Iterator
from typing import Any, Final, TextIO

from loadgen.redact import printable

SPELLED: Final = "loadgen.spelled"
"""The error handler of the streams: a sign that their encoding lacks is spelled."""

NARROWEST: Final = 40
"""Text is not set in fewer columns, however narrow the terminal is."""
NOT_READ: Final = {errno.EPIPE, errno.ECONNRESET, *((errno.EINVAL,) if os.name == "nt" else ())}
"""The reader has read enough, as `head` does: no fault. Windows has another number for it."""


def print_text(text: str) -> None:
    """Text on standard output, as it is; it ends its own lines."""
    sys.stdout.write(text)


def tell(line: str) -> None:
    """One line for people, on standard error."""
    sys.stderr.write(f"{printable(line)}\n")
    sys.stderr.flush()


class LossyOutput(io.RawIOBase):
    """The bytes of a stream, which are dropped from the first that cannot be written."""

    def __init__(self, raw: io.RawIOBase) -> None:
        self._raw = raw
        self.failure: OSError | None = None
        """Why no more was written."""

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self._raw.fileno()

    def isatty(self) -> bool:
        return self._raw.isatty()

    def write(self, data: Any) -> int:
        if self.failure is None:
            try:
                while (written := self._raw.write(data)) is None:  # a pipe that does not block, and is full
                    select.select([], [self._raw], [])
                return written
            except OSError as error:
                self.failure = error
        return len(data)


class StandardStreams:
    """What became of the standard streams while they were guarded."""

    def __init__(self, output: LossyOutput | None) -> None:
        self._output = output

    def output_failure(self) -> str | None:
        """Why standard output is not all there, in words; None where it is, or where nobody reads on."""
        sys.stdout.flush()
        failure = None if self._output is None else self._output.failure
        return None if failure is None or failure.errno in NOT_READ else failure.strerror or str(failure)


@contextlib.contextmanager
def guarded_streams() -> Iterator[StandardStreams]:
    """While the context lasts, nothing that is written to a standard stream raises an error."""
    if None in (sys.stdin, sys.stdout, sys.stderr):
        _open_missing()
    before = sys.stdout, sys.stderr
    output, errors = (_guard(stream) for stream in before)
    sys.stdout, sys.stderr = output or before[0], errors or before[1]
    try:
        yield StandardStreams(None if output is None else output.buffer.raw)  # type: ignore[attr-defined]
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        sys.stdout, sys.stderr = before


def _open_missing() -> None:
    """Give each standard stream that was closed when we began a file that holds nothing, lest a socket takes its place
    and a child writes to it."""
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:
        os.set_inheritable(descriptor, True)
    os.close(descriptor)
    sys.stdin = sys.stdin or open(os.devnull, encoding="utf-8")  # noqa: PTH123, SIM115
    sys.stdout = sys.stdout or open(os.devnull, "w", encoding="utf-8")  # noqa: PTH123, SIM115
    sys.stderr = sys.stderr or open(os.devnull, "w", encoding="utf-8")  # noqa: PTH123, SIM115


def _spelled(error: UnicodeError) -> tuple[str, int]:
    from loadgen.report.charset import spelling  # few outputs need it

    if not isinstance(error, UnicodeEncodeError):
        raise error
    return "".join(map(spelling, error.object[error.start : error.end])), error.end


codecs.register_error(SPELLED, _spelled)


def _guard(stream: TextIO) -> io.TextIOWrapper | None:
    """The same stream, guarded; None where it is no file of the system's, as in a test."""
    buffer = getattr(stream, "buffer", None)
    raw = getattr(buffer, "raw", buffer)  # with PYTHONUNBUFFERED there is no buffer between
    if not isinstance(stream, io.TextIOWrapper) or not isinstance(raw, io.RawIOBase):
        return None
    with contextlib.suppress(OSError):
        stream.flush()
    return io.TextIOWrapper(
        io.BufferedWriter(LossyOutput(raw)),
        encoding=stream.encoding,
        errors=SPELLED,
        line_buffering=stream.line_buffering,
        write_through=stream.write_through,
    )
