"""Files of JSON lines that only grow: what the notes and the judgings of a run are kept in."""

from collections.abc import Iterable
from pathlib import Path
from typing import TypeVar

import msgspec
from msgspec import Struct

from loadgen.errors import InputError
from loadgen.store.run_folder import Log

Line = TypeVar("Line", bound=Struct)


def append_lines(path: Path, lines: Iterable[Struct]) -> None:
    """Add lines to a file. Raises FolderError if it cannot be written."""
    lines = list(lines)
    if lines:
        _end_torn_line(path, type(lines[0]))
    log = Log(path)
    try:
        for line in lines:
            log.append(line)
    finally:
        log.close()


def read_lines(path: Path, kind: type[Line], noun: str, hint: str) -> list[Line]:
    """The lines of a file; none if there is no file. A last line that was cut off is left out, since the program was
    killed. noun, hint: of a line, for messages.

    Raises InputError for any other line that cannot be read.
    """
    try:
        *complete, rest = path.read_bytes().split(b"\n")
    except FileNotFoundError:
        return []
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from error
    decoder, lines = msgspec.json.Decoder(kind), []
    for number, line in enumerate([*complete, rest], 1):
        if not line.strip():
            continue
        try:
            lines.append(decoder.decode(line))
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            if number > len(complete):
                continue
            raise InputError(f"{path}, line {number}: not {noun} ({error}); {hint}") from error
    return lines


def _end_torn_line(path: Path, kind: type[Struct]) -> None:
    """Remove a last line that was cut off, so that the next line does not become a part of it."""
    try:
        with path.open("r+b") as file:
            data = file.read()
            start = data.rfind(b"\n") + 1
            if start == len(data):
                return
            if _is_line(data[start:], kind):  # only its line end is missing
                file.write(b"\n")
            else:
                file.truncate(start)
    except FileNotFoundError:
        return
    except OSError as error:
        raise InputError(f"{path}: cannot be written ({error.strerror})") from error


def _is_line(line: bytes, kind: type[Struct]) -> bool:
    try:
        msgspec.json.decode(line, type=kind)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return False
    return True
