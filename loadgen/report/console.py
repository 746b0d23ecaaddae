"""The headline of a report for a terminal. Pure: a summary in, text out."""

import json
import re
from collections.abc import Iterable
from typing import Any, Final

import orjson

from loadgen.analysis.summary import Summary
from loadgen.redact import redact_keys
from loadgen.report.document import Headline, headline
from loadgen.report.section import Table
from loadgen.report.text_table import Screen, TerminalStyle, table_lines, wrap

WIDTH: Final = 150


def console(summary: Summary, *, width: int | None = WIDTH, style: TerminalStyle = "plain") -> str:
    """The main table of a run, its answer and its remarks, at most `width` columns wide; None: any width."""
    return report_text(summary, Screen(width, style))


def report_text(summary: Summary, screen: Screen) -> str:
    """As `console`, for any screen."""
    top = headline(summary)
    lines = [*_wrapped(_title(top), screen), *table_lines(top.table, screen)]
    if top.answer:
        lines += [screen.styled(line, "bold") for line in _wrapped(top.answer, screen)]
    if top.sureness:
        lines += _wrapped(top.sureness, screen)
    for remark in top.table.remarks:
        lines += _wrapped(f"· {remark}", screen, indent="  ")
    return _joined(lines)


def table_text(table: Table, title: str, screen: Screen) -> str:
    """Any table with its title, if it has one, and its remarks."""
    lines = [*(_wrapped(title, screen) if title else ()), *table_lines(table, screen)]
    return _joined(
        [*lines, *(line for remark in table.remarks for line in _wrapped(f"· {remark}", screen, indent="  "))]
    )


def lines_text(lines: Iterable[str], screen: Screen) -> str:
    """Lines, each wrapped between words."""
    return _joined([part for line in lines for part in _wrapped(line, screen)])


def _wrapped(text: str, screen: Screen, indent: str = "") -> list[str]:
    return wrap(screen.spelled(text), screen.width, indent)


def _joined(lines: Iterable[str]) -> str:
    return "".join(f"{line}\n" for line in lines)


def json_text(value: Any, encoding: str = "utf-8") -> str:
    """A value as indented JSON that is safe for a terminal: control characters are written as escapes, and so are all
    non-ASCII characters if the output is not UTF-8."""
    try:
        text = orjson.dumps(value, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE).decode()
    except TypeError:  # a file name that is not UTF-8, which only Python's own encoder writes
        text = json.dumps(value, indent=2) + "\n"
    if encoding.lower().startswith("utf"):
        return re.sub(r"[^\x20-\x7e\n]", _escape_control, redact_keys(text))
    return re.sub(r"[^\x20-\x7e\n]", _escape, redact_keys(text))


def _escape_control(match: re.Match[str]) -> str:
    return match[0] if match[0].isprintable() else _escape(match)


def _escape(match: re.Match[str]) -> str:
    sign = match[0]
    return f"\\u{ord(sign):04x}" if ord(sign) < 0x10000 else json.dumps(sign)[1:-1]


def _title(top: Headline) -> str:
    model = f" · {top.models[0]}" if len(top.models) == 1 else ""
    return f"{top.title}{model} · {top.run_id}"
