"""Fits a table into a width. Pure: takes a table and a screen, returns lines.

No number and no heading is ever cut off. Headings and sentences wrap between words. If that is not enough, and all rows
fit side by side, the table is turned: each heading becomes a line. Otherwise columns of a higher rank are left out, and
a line names them. If even the remaining columns do not fit, the turned table is drawn in several blocks.
"""

import re
from collections.abc import Iterator, Sequence
from typing import Final, Literal

import msgspec
from msgspec import Struct
from rich.cells import cell_len

from loadgen.redact import printable
from loadgen.report.charset import spell
from loadgen.report.section import Column, Row, Table

CROSS: Final = "✗"
"""The mark after each number of an invalid stage if it cannot be struck out."""
GAP: Final = 2
"""The space between two columns of a table."""
LONGEST_TEXT: Final = 24
"""A longer text cell may be wrapped, and a longer word in it, such as the path of a model, may be broken."""

_UNIT: Final = re.compile(r"(?:%|[mµn]?s|min|h|[KMG]iB|°C|MiB/h|tokens/s|points?)[).,;:]*")
_SIGNS: Final = frozenset({"≥", "≤", "±", "<", ">", ">=", "<=", "+/-"})

TerminalStyle = Literal["plain", "color"]
_CODES: Final = {"bold": "\x1b[1m", "strike": "\x1b[9m"}
_END: Final = "\x1b[0m"


class Screen(Struct, frozen=True):
    """The output that a text is drawn for."""

    width: int | None = None
    """The number of columns; None if it is unlimited, as in a file."""
    style: TerminalStyle = "plain"
    encoding: str = "utf-8"

    def spelled(self, text: str) -> str:
        """A text in characters that this screen can show, on one line, without terminal control sequences."""
        return spell(printable(text), self.encoding)

    def styled(self, text: str, style: Literal["bold", "strike"]) -> str:
        return f"{_CODES[style]}{text}{_END}" if self.style == "color" and text else text


def table_lines(table: Table, screen: Screen) -> Iterator[str]:
    """The table without its remarks. No line is wider than the screen, and none ends in a blank."""
    ready = _ready(table, screen)
    if screen.width is None:
        yield from _grid(ready, _natural_widths(ready), screen)
        return
    blocks = _blocks(ready, screen.width)
    for rank in sorted({column.rank for column in ready.columns}, reverse=True):
        shown = _up_to_rank(ready, rank)
        widths = _fit_widths(shown, screen.width)
        if widths is not None:
            yield from _grid(shown, widths, screen)
            dropped = [column.title for column in ready.columns if column.rank > rank]
            yield from wrap(f"not shown at this width: {', '.join(dropped)}", screen.width) if dropped else ()
            return
        if len(blocks) == 1:
            break
    yield from _turned(ready, blocks, screen)


def wrap(text: str, width: int | None, indent: str = "") -> list[str]:
    """A text in lines of at most `width` columns, broken between words. Lines after the first start with the indent,
    and all lines with the blanks at the start of the text. A text that fits is unchanged, with its inner alignment."""
    if width is None or (cell_len(text) <= width and "\n" not in text):
        return [text.rstrip()]
    lead = text[: len(text) - len(text.lstrip())]
    lines, line, indent = [], lead, lead + indent
    room = width - cell_len(indent)
    for word in (part for words in _words(text) for part in ([words] if cell_len(words) <= room else words.split())):
        rest = word
        while rest:
            joined = f"{line} {rest}" if line.strip() else f"{line}{rest}"
            if cell_len(joined) <= width:
                line = joined
                break
            if line.strip():
                lines.append(line)
                line = indent
                continue
            head = _head(rest, max(1, width - len(line)))
            lines.append(f"{line}{head}")
            line, rest = indent, rest[len(head) :]
    return [*lines, line] if line.strip() or not lines else lines


def _words(text: str) -> Iterator[str]:
    """The words of a text, at which it may be wrapped. A number is one word with its unit, and with the sign before
    it."""
    word = ""
    for part in text.split():
        if word and ((_UNIT.fullmatch(part) and word[-1].isdigit()) or word.lstrip("(") in _SIGNS):
            word += f" {part}"
            continue
        if word:
            yield word
        word = part
    if word:
        yield word


def _head(word: str, width: int) -> str:
    """As much of a word as fits into `width` columns, but at least one character."""
    taken = 1
    while taken < len(word) and cell_len(word[: taken + 1]) <= width:
        taken += 1
    return word[:taken]


def _ready(table: Table, screen: Screen) -> Table:
    """The table with all texts in the form in which they are drawn."""
    columns = tuple(msgspec.structs.replace(column, title=screen.spelled(column.title)) for column in table.columns)
    cross = f" {CROSS}" if screen.style == "plain" else ""
    rows = tuple(
        Row(
            tuple(
                screen.spelled(f"{cell}{cross}" if row.invalid and column.kind == "number" else cell)
                for cell, column in zip(row.cells, columns, strict=True)
            ),
            row.invalid,
        )
        for row in table.rows
    )
    return Table(columns, rows)


def _up_to_rank(table: Table, rank: int) -> Table:
    keep = [i for i, column in enumerate(table.columns) if column.rank <= rank]
    rows = (Row(tuple(row.cells[i] for i in keep), row.invalid) for row in table.rows)
    return Table(tuple(table.columns[i] for i in keep), tuple(rows))


def _cells_of(table: Table, number: int) -> list[str]:
    return [row.cells[number] for row in table.rows]


def _natural_widths(table: Table) -> list[int]:
    """The width of each column if nothing is wrapped."""
    return [
        max(map(cell_len, (column.title, *_cells_of(table, i))), default=0) for i, column in enumerate(table.columns)
    ]


def _least_width(column: Column, cells: Sequence[str]) -> int:
    """The least width of a column: that of the longest word of its heading, its numbers, its short texts, and the words
    of its prose."""
    texts = (word for cell in cells for word in _words(cell)) if column.kind == "prose" else iter(cells)
    longest = max(map(cell_len, texts), default=0)
    words = max(map(cell_len, column.title.split()), default=0)
    return max(words, longest if column.kind == "number" else min(longest, LONGEST_TEXT))


def _fit_widths(table: Table, width: int) -> list[int] | None:
    """A width for each column so that all fit, where the widest columns shrink first; None if they cannot fit."""
    natural = _natural_widths(table)
    widths = [_least_width(column, _cells_of(table, i)) for i, column in enumerate(table.columns)]
    spare = width - sum(widths) - GAP * (len(widths) - 1)
    if spare < 0:
        return None
    for _ in range(min(spare, sum(natural) - sum(widths))):
        lacking = [wish - given for wish, given in zip(natural, widths, strict=True)]
        widths[lacking.index(max(lacking))] += 1
    return widths


def _grid(table: Table, widths: Sequence[int], screen: Screen) -> Iterator[str]:
    heads = [wrap(column.title, width) for column, width in zip(table.columns, widths, strict=True)]
    tallest = max(map(len, heads), default=0)
    heads = [["" for _ in range(tallest - len(lines))] + lines for lines in heads]
    for line in zip(*heads, strict=True):
        yield _line(line, table.columns, widths, screen, "bold")
    for row in table.rows:
        wrapped = [wrap(cell, width) for cell, width in zip(row.cells, widths, strict=True)]
        for number in range(max(map(len, wrapped))):
            line = tuple(lines[number] if number < len(lines) else "" for lines in wrapped)
            yield _line(line, table.columns, widths, screen, "strike" if row.invalid else None)


def _line(
    cells: Sequence[str],
    columns: Sequence[Column],
    widths: Sequence[int],
    screen: Screen,
    style: Literal["bold", "strike"] | None,
) -> str:
    drawn = []
    for cell, column, width in zip(cells, columns, widths, strict=True):
        blank = " " * (width - cell_len(cell))
        text = screen.styled(cell, style) if style else cell
        drawn.append(f"{blank}{text}" if column.kind == "number" else f"{text}{blank}")
    return (" " * GAP).join(drawn).rstrip()


class _Block(Struct, frozen=True):
    """Rows of a turned table that are drawn side by side."""

    rows: tuple[Row, ...]
    widths: tuple[int, ...]
    """The widths of the headings and of each row."""


def _turned(table: Table, blocks: Sequence[_Block], screen: Screen) -> Iterator[str]:
    """The table with rows and columns exchanged, and an empty line between blocks."""
    for block in blocks:
        if block is not blocks[0]:
            yield ""
        kind: Literal["text", "number"] = "text" if len(block.rows) == 1 else "number"
        columns = (Column("", "text"), *(Column("", kind) for _ in block.rows))
        for number, column in enumerate(table.columns):
            texts = (column.title, *(row.cells[number] for row in block.rows))
            wrapped = [wrap(text, width) for text, width in zip(texts, block.widths, strict=True)]
            for at in range(max(map(len, wrapped))):
                line = [lines[at] if at < len(lines) else "" for lines in wrapped]
                yield _line(line, columns, block.widths, screen, None)


def _label_width(table: Table, width: int) -> int:
    """The width of the headings of a turned table. They wrap if the numbers beside them need the space."""
    titles = [column.title for column in table.columns]
    longest_cell = max(_least_width(column, _cells_of(table, i)) for i, column in enumerate(table.columns))
    longest_word = max((cell_len(word) for title in titles for word in title.split()), default=0)
    return max(longest_word, min(width - GAP - longest_cell, max(map(cell_len, titles))))


def _blocks(table: Table, width: int) -> list[_Block]:
    """The rows in blocks, as many in each as fit."""
    if not table.rows:
        return []
    label = _label_width(table, width)
    room = max(width - label - GAP, 1)
    blocks: list[_Block] = []
    for row in table.rows:
        wish = min(max(map(cell_len, row.cells)), room)
        if blocks and sum(blocks[-1].widths) + GAP * len(blocks[-1].widths) + wish <= width:
            blocks[-1] = _Block((*blocks[-1].rows, row), (*blocks[-1].widths, wish))
        else:
            blocks.append(_Block((row,), (label, wish)))
    return blocks
