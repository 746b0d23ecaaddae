"""The rows of a table of prompts: CSV or TSV, as spreadsheets and data sets write them. Opens no file."""

import csv
import itertools
import re
from collections.abc import Iterator
from typing import Final

from loadgen.errors import InputError
from loadgen.plan.prompt_rows import KEYS, TEXT_KEYS, PlacedRow, row_of_object
from loadgen.redact import escape_control

DELIMITERS: Final = (",", ";", "\t")
"""The signs between cells. Spreadsheets write semicolons in countries in which the comma is the decimal sign."""
_LONGEST_CELL: Final = 32 << 20
"""The longest cell, in characters: as long as a file may be."""
_NOT_IN_CELLS: Final = frozenset(KEYS) - frozenset(TEXT_KEYS)
"""Keys that a table cannot have, because programs do not agree how to write a chat in a cell."""
_SEPARATOR: Final = re.compile(r'\s*"?sep=(,|;|\t)"?[^\S\t\n]*\n?', re.IGNORECASE)
"""The line before the names of the columns in which Excel has the sign between the cells."""
_NAME: Final = re.compile(r" ?[A-Za-z_][\w .-]{0,40}")


def is_table(text: str) -> bool:
    """Whether a text without a file name begins like a table: with several names of columns, one of them known."""
    if separator := _SEPARATOR.match(text):
        text = text[separator.end() :]
    header, _, rest = text.lstrip().partition("\n")
    cells = header.strip().replace('"', "").split(_delimiter_of(header))
    return bool(rest.strip()) and len(cells) > 1 and all(map(_NAME.fullmatch, cells)) and _is_header(_names_of(cells))


def rows_of_table(lines: Iterator[str], where: str) -> Iterator[PlacedRow]:
    """The rows below the first, which names the columns. lines: those of the text, with their ends. Raises
    InputError."""
    header, delimiter, before = _header_in(lines)
    csv.field_size_limit(_LONGEST_CELL)
    reader = csv.reader(itertools.chain((header,), lines), delimiter=delimiter, strict=True)
    names: list[str] = []
    begin = before + 1
    try:
        for cells in reader:
            number, begin = begin, before + reader.line_num + 1
            if not names and not any(cell.strip() for cell in cells):
                continue
            if not names:
                names = _checked_names(cells, where)
            elif cells:
                place = f"{where}: line {number}"
                yield row_of_object(_columns_of(names, cells, place), place), place, number
    except csv.Error as error:
        hint = "put a text with a quote into double quotes, and write each quote in it twice"
        raise InputError(f"{where}: line {begin}: not a table: {escape_control(str(error))}; {hint}") from None


def _header_in(lines: Iterator[str]) -> tuple[str, str, int]:
    """The line with the names of the columns, the sign between them, and how many lines come before it."""
    delimiter = ""
    for before, line in enumerate(lines):
        if not delimiter and (separator := _SEPARATOR.fullmatch(line)):
            delimiter = separator[1]
        elif line.strip():
            return line, delimiter or _delimiter_of(line), before
    return "", DELIMITERS[0], 0


def _names_of(cells: list[str]) -> list[str]:
    return [cell.strip().lower() for cell in cells]


def _delimiter_of(header: str) -> str:
    """The sign between the names of the columns: the most frequent one of `DELIMITERS`."""
    return max(DELIMITERS, key=header.count)


def _is_header(names: list[str]) -> bool:
    return any(name in TEXT_KEYS for name in names)


def _checked_names(cells: list[str], where: str) -> list[str]:
    names = _names_of(cells)
    if not _is_header(names):
        hint = f"name one {TEXT_KEYS[0]}, {', '.join(TEXT_KEYS[1:-1])} or {TEXT_KEYS[-1]}"
        raise InputError(f"{where}: the first line names no column of prompts; {hint}")
    for name in TEXT_KEYS:
        if names.count(name) > 1:
            raise InputError(f"{where}: two columns are called {name}; rename one of them")
    return names


def _columns_of(names: list[str], cells: list[str], place: str) -> dict[str, object]:
    """The cells of a row by the names of their columns; None for an empty one."""
    if any(cell.strip() for cell in cells[len(names) :]):
        hint = "put a text that has the separator in it into double quotes"
        raise InputError(f"{place}: {len(cells)} cells, and the first line names {len(names)} columns; {hint}")
    filled = [cell if cell.strip() else None for cell in cells[: len(names)]]
    return {
        name: cell
        for name, cell in zip(names, [*filled, *[None] * (len(names) - len(filled))], strict=True)
        if name not in _NOT_IN_CELLS and name != "body"
    }
