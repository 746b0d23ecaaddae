"""The table for a terminal. Pure: a summary in, text out."""

import io
import sys
from typing import Final

from rich.console import Console
from rich.table import Table as RichTable
from rich.text import Text

from loadgen.report.table import Table, answer, main_table
from loadgen.summary import Summary

WIDTH: Final = 150


def console(summary: Summary, *, width: int = WIDTH, color: bool = False) -> str:
    """The main table of a run, its answer and its notes, at most `width` columns wide."""
    out = io.StringIO()
    # Everything is a Text: what a server said is never read as markup, and control characters do not reach a terminal.
    terminal = Console(
        file=out, width=width, force_terminal=color, no_color=not color, highlight=False, legacy_windows=False
    )
    terminal.print(_rich(main_table(summary), _title(summary)))
    told = answer(summary)
    if told:
        terminal.print(Text(plain(told), style="bold"))
    for note in main_table(summary).notes:
        terminal.print(Text(plain(f"· {note}")))
    return out.getvalue()


def table_text(table: Table, title: str, *, width: int) -> str:
    """Any table for a terminal, without colour; at most `width` columns wide."""
    out = io.StringIO()
    Console(file=out, width=width, no_color=True, highlight=False, legacy_windows=False).print(_rich(table, title))
    return out.getvalue()


def terminal_width() -> int:
    """The terminal's width; where there is none, wide enough for every column."""
    return Console().width if sys.stdout.isatty() else WIDTH


def _title(summary: Summary) -> str:
    who = dict.fromkeys(f"{stage.model} on {stage.target}" for stage in summary.stages)
    only = f" · {next(iter(who))}" if len(who) == 1 else ""
    return plain(f"{summary.scenario}{only} · {summary.run_id}")


def _rich(table: Table, title: str) -> RichTable:
    drawn = RichTable(title=Text(title), title_justify="left", box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for column in table.columns:
        drawn.add_column(Text(column.title), justify="right" if column.number else "left", no_wrap=True)
    for row in table.rows:
        drawn.add_row(*(Text(plain(cell), style="strike" if row.invalid else "") for cell in row.cells))
    return drawn


def plain(text: str) -> str:
    """Text without control characters: what a server sent must not steer the terminal."""
    return "".join(sign if sign.isprintable() else "\ufffd" for sign in text)
