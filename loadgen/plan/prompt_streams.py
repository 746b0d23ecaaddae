"""Reads texts of prompts that are too long to be held in memory: decodes them, and recognizes what they hold by their
beginning. Opens no file."""

import codecs
import io
import re
from collections.abc import Iterator
from typing import BinaryIO, Final, Literal

from loadgen.errors import InputError
from loadgen.plan.prompt_rows import JSON_LINES
from loadgen.plan.prompt_tables import is_table
from loadgen.scenario.file import decode_text

BEGINNING_BYTES: Final = 1 << 20
"""How much of a text decides what it holds."""
LONGEST_LINE: Final = 32 << 20
"""The longest line, in bytes."""
_PIECE_BYTES: Final = 1 << 20
_OBJECT_ON_A_LINE: Final = re.compile(r"\{.*\}\s*\n")

LongKind = Literal["lines", "list", "object", "table", "text"]
"""What a long text holds: a JSON value on each line, a JSON list, a JSON object, a table, or plain text."""


class Rejoined(io.RawIOBase):
    """The bytes of a file or a pipe whose beginning was read already."""

    def __init__(self, beginning: bytes, rest: BinaryIO) -> None:
        self._beginning = memoryview(beginning)
        self._rest = rest

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        data = self._beginning[: len(buffer)] or memoryview(self._rest.read(len(buffer)))
        # Without a reference to it, the beginning is freed as soon as it was read.
        self._beginning = self._beginning[len(data) :] or memoryview(b"")
        buffer[: len(data)] = data
        return len(data)


def kind_of_long(beginning: str, suffix: str) -> LongKind:
    """What a long text holds, by its beginning. suffix: that of its file, which decides only about plain text."""
    start = beginning.lstrip()
    if start.startswith("["):
        return "list"
    if start.startswith("{"):
        is_one_line = "\n" not in start and suffix != ".json"
        return "lines" if is_one_line or _OBJECT_ON_A_LINE.match(start) else "object"
    if suffix in (*JSON_LINES, ".json") or start.startswith('"'):
        return "lines"
    return "table" if is_table(beginning) else "text"


def lines_in(file: BinaryIO, where: str) -> Iterator[str]:
    """The lines of a file, with their ends. Raises InputError."""
    number = 0
    while line := file.readline(LONGEST_LINE + 1):
        number += 1
        if len(line) > LONGEST_LINE:
            hint = "split it, or name another file"
            raise InputError(f"{where}: line {number}: more than {LONGEST_LINE >> 20} MiB on one line; {hint}")
        yield decode_text(line, where, first_line=number)


def pieces_in(file: BinaryIO, where: str) -> Iterator[str]:
    """The text of a file in pieces of about a MiB. Raises InputError."""
    decoder = codecs.getincrementaldecoder("utf-8-sig")()
    line = 1
    while data := file.read(_PIECE_BYTES):
        try:
            yield decoder.decode(data)
        except UnicodeDecodeError as error:
            line += error.object[: error.start].count(b"\n")
            byte = error.object[error.start]
            raise InputError(f"{where}: line {line}: not UTF-8 (byte 0x{byte:02x}); save it as UTF-8") from None
        line += data.count(b"\n")
