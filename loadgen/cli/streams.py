"""Makes standard input, output and error safe, so that a faulty stream never ends a command.

A stream may be missing (a daemon, pythonw), on a full disk, abandoned by its reader, or in an encoding that lacks some
characters. The measurements of a command and its exit code must not depend on that.
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
"""The name of the streams' error handler, which spells characters that their encoding lacks."""

NARROWEST: Final = 40
"""The smallest width of text, however narrow the terminal is."""
NOT_READ: Final = {errno.EPIPE, errno.ECONNRESET, *((errno.EINVAL,) if os.name == "nt" else ())}
"""The errors if the reader has read enough, as `head` does, which is not a fault. Windows has its own number for it."""


def print_text(text: str) -> None:
    """Write text to standard output, unchanged, without an additional line end."""
    sys.stdout.write(text)


def tell(line: str) -> None:
    """Write one line for the user to standard error."""
    sys.stderr.write(f"{printable(line)}\n")
    sys.stderr.flush()


class LossyOutput(io.RawIOBase):
    """Writes bytes to a stream; after the first error, it drops all further bytes."""

    def __init__(self, raw: io.RawIOBase) -> None:
        self._raw = raw
        self.failure: OSError | None = None
        """Why writing stopped."""

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self._raw.fileno()

    def isatty(self) -> bool:
        return self._raw.isatty()

    def write(self, data: Any) -> int:
        if self.failure is None:
            try:
                while (written := self._raw.write(data)) is None:  # a non-blocking pipe that is full
                    select.select([], [self._raw], [])
                return written
            except OSError as error:
                self.failure = error
        return len(data)


class StandardStreams:
    """The state of the standard streams while they are guarded."""

    def __init__(self, output: LossyOutput | None) -> None:
        self._output = output

    def output_failure(self) -> str | None:
        """Why standard output is incomplete, in words; None if it is complete, or if its reader stopped reading."""
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
    """Replace each standard stream that was closed at the start by an empty file. Otherwise a socket could get its
    descriptor, and a child could write to it."""
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
    """The same stream, guarded; None if it is not a file of the system, as in a test."""
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
