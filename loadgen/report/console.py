"""The table for a terminal. Pure: a summary in, text out."""

import io
import json
import re
import sys
from typing import Any, Final

import orjson
from rich.console import Console
from rich.table import Table as RichTable
from rich.text import Text

from loadgen.analysis.summary import Summary
from loadgen.redact import printable, redact_keys
from loadgen.report.main_table import Table, answer, main_table

WIDTH: Final = 150
CROSS: Final = "✗"
"""Behind a number of an invalid stage where there is no line through it."""


def console(summary: Summary, *, width: int = WIDTH, color: bool = False) -> str:
    """The main table of a run, its answer and its notes, at most `width` columns wide."""
    out = io.StringIO()
    # Everything is a Text: what a server said is never read as markup, and control characters do not reach a terminal.
    terminal = Console(
        file=out, width=width, force_terminal=color, no_color=not color, highlight=False, legacy_windows=False
    )
    terminal.print(_rich(main_table(summary), _title(summary), struck=color))
    told = answer(summary)
    if told:
        terminal.print(Text(printable(told), style="bold"))
    for note in main_table(summary).notes:
        terminal.print(Text(printable(f"· {note}")))
    return out.getvalue()


def table_text(table: Table, title: str, *, width: int) -> str:
    """Any table for a terminal, without color; at most `width` columns wide."""
    out = io.StringIO()
    Console(file=out, width=width, no_color=True, highlight=False, legacy_windows=False).print(
        _rich(table, title, struck=False)
    )
    return out.getvalue()


def terminal_width() -> int:
    """The terminal's width; where there is none, wide enough for every column."""
    return Console().width if sys.stdout.isatty() else WIDTH


def json_text(value: Any) -> str:
    """A value as indented JSON that a terminal shows as it is: what it would obey is written as an escape."""
    told = orjson.dumps(value, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE).decode()
    return re.sub(r"[^\x20-\x7e\n]", _escaped, redact_keys(told))


def _escaped(found: re.Match[str]) -> str:
    sign = found[0]
    if sign.isprintable():
        return sign
    return f"\\u{ord(sign):04x}" if ord(sign) < 0x10000 else json.dumps(sign)[1:-1]


def _title(summary: Summary) -> str:
    who = dict.fromkeys(f"{stage.model} on {stage.target}" for stage in summary.stages)
    only = f" · {next(iter(who))}" if len(who) == 1 else ""
    return printable(f"{summary.scenario}{only} · {summary.run_id}")


def _rich(table: Table, title: str, *, struck: bool) -> RichTable:
    """struck: a line through what is invalid can be seen; where it cannot, a cross stands behind each number."""
    drawn = RichTable(title=Text(title), title_justify="left", box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for column in table.columns:
        drawn.add_column(Text(column.title), justify="right" if column.number else "left", no_wrap=True)
    for row in table.rows:
        cells = [printable(cell) for cell in row.cells]
        if row.invalid and not struck:
            cells = [
                f"{cell} {CROSS}" if head.number else cell for cell, head in zip(cells, table.columns, strict=True)
            ]
        drawn.add_row(*(Text(cell, style="strike" if row.invalid else "") for cell in cells))
    return drawn
