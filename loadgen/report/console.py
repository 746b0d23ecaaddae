"""The headline of a report for a terminal. Pure: a summary in, text out."""

import io
import json
import re
import sys
from collections.abc import Iterable
from typing import Any, Final, Literal

import orjson
from rich.console import Console
from rich.table import Table as RichTable
from rich.text import Text

from loadgen.analysis.summary import Summary
from loadgen.redact import printable, redact_keys
from loadgen.report.document import Headline, headline
from loadgen.report.section import Column, Row, Table

WIDTH: Final = 150
CROSS: Final = "✗"
"""After each number of an invalid stage where no line can be drawn through it."""

TerminalStyle = Literal["plain", "color"]


def console(summary: Summary, *, width: int = WIDTH, style: TerminalStyle = "plain") -> str:
    """The main table of a run, its answer and its notes, at most `width` columns wide."""
    top = headline(summary)
    terminal = _terminal(width, style)
    # Everything is a Text: what a server said is never read as markup, and control characters do not reach a terminal.
    terminal.print(_rich_table(top.table, _title(top), style))
    if top.answer:
        terminal.print(Text(printable(top.answer), style="bold"))
    for note in top.table.notes:
        terminal.print(Text(printable(f"· {note}")))
    return _output(terminal)


def table_text(table: Table, title: str, *, width: int) -> str:
    """Any table for a terminal, without color, under its title, if it has one; at most `width` columns wide."""
    terminal = _terminal(width, "plain")
    terminal.print(_rich_table(table, title, "plain"))
    return _output(terminal)


def lines_text(lines: Iterable[str], *, width: int) -> str:
    """Lines for a terminal, each wrapped between words so that it is at most `width` columns wide."""
    terminal = _terminal(width, "plain")
    for line in lines:
        terminal.print(Text(printable(line)))
    return _output(terminal)


def terminal_style() -> TerminalStyle:
    """Color where standard output is a terminal."""
    return "color" if sys.stdout.isatty() else "plain"


def json_text(value: Any) -> str:
    """A value as indented JSON that a terminal shows as it is: what it would obey is written as an escape."""
    try:
        text = orjson.dumps(value, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE).decode()
    except TypeError:  # a file name that is no UTF-8, which only Python's own writes
        text = json.dumps(value, indent=2) + "\n"
    return re.sub(r"[^\x20-\x7e\n]", _escape_control, redact_keys(text))


def _escape_control(match: re.Match[str]) -> str:
    sign = match[0]
    if sign.isprintable():
        return sign
    return f"\\u{ord(sign):04x}" if ord(sign) < 0x10000 else json.dumps(sign)[1:-1]


def _terminal(width: int, style: TerminalStyle) -> Console:
    """A console of rich that writes into a string."""
    color = style == "color"
    return Console(
        file=io.StringIO(),
        width=width,
        force_terminal=color,
        no_color=not color,
        highlight=False,
        legacy_windows=False,
    )


def _output(terminal: Console) -> str:
    assert isinstance(terminal.file, io.StringIO)
    return terminal.file.getvalue()


def _title(top: Headline) -> str:
    model = f" · {top.models[0]}" if len(top.models) == 1 else ""
    return printable(f"{top.title}{model} · {top.run_id}")


def _rich_table(table: Table, title: str, style: TerminalStyle) -> RichTable:
    """With color, a line through an invalid row can be seen; without, a cross stands after each of its numbers."""
    drawn = RichTable(
        title=Text(title) if title else None, title_justify="left", box=None, pad_edge=False, padding=(0, 2, 0, 0)
    )
    for column in table.columns:
        justify: Literal["left", "right"] = "right" if column.kind == "number" else "left"
        drawn.add_column(Text(column.title), justify=justify, no_wrap=True)
    for row in table.rows:
        crossed = row.invalid and style == "plain"
        cells = _crossed(row, table.columns) if crossed else row.cells
        drawn.add_row(*(Text(printable(cell), style="strike" if row.invalid else "") for cell in cells))
    return drawn


def _crossed(row: Row, columns: tuple[Column, ...]) -> tuple[str, ...]:
    cells = zip(row.cells, columns, strict=True)
    return tuple(f"{cell} {CROSS}" if column.kind == "number" else cell for cell, column in cells)
