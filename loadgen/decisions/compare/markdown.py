"""A comparison as Markdown, for a pull request: short, with all figures folded away. Pure.

Whatever a server, a file or a person chose is escaped, and no path stands in it but in the command that made it.
"""

from collections.abc import Iterable, Sequence
from typing import Final

from loadgen.decisions.compare.comparison import Comparison, Figure
from loadgen.decisions.compare.words import (
    change_text,
    context_lines,
    interval_text,
    marked_name,
    needed_text,
    size_of,
    value_text,
    verdict_line,
)
from loadgen.redact import printable
from loadgen.report.format import UNKNOWN
from loadgen.report.markdown import escape

MAX_CHARACTERS: Final = 60_000
"""What a comment on a pull request may have."""
MAX_ROWS: Final = 12
"""Rows of the table that is not folded."""
LONGEST_CELL: Final = 200
LONGEST_LINE: Final = 1_500
MARKS: Final = {"worse": "❌", "better": "🎉", "same": "✅", "unknown": "❔"}
_DETAILS: Final = ("<details>", "</details>", "<summary>", "</summary>")
_CUT: Final = "… and {} more rows, which are in comparison.json"


def comparison_markdown(comparison: Comparison, command: str) -> str:
    """The contents of `comparison.md`. command: the command line that made the comparison, ready to be typed."""
    tail = _fenced(command)
    lines = [*_head(comparison), *_changed(comparison)]
    budget = MAX_CHARACTERS - len(tail) - 500  # room for the lines that say what is left out
    text = _joined(lines, budget)
    for block in (_all_figures(comparison), _differing(comparison)):
        text += _joined(block, budget - len(text))
    return f"{text}{tail}"


def _head(comparison: Comparison) -> Iterable[str]:
    yield f"## {MARKS[comparison.verdict]} {_text(verdict_line(comparison))}"
    yield ""
    for each in comparison.unlike:
        yield f"- **not alike**: {_text(each.subject)}: {_text(each.base)} in BASE, {_text(each.new)} in NEW"
    if comparison.unlike:
        yield ""
    yield f"BASE: {_runs(comparison.base)}  "
    yield f"NEW: {_runs(comparison.new)}"
    yield ""
    lines = context_lines(comparison)
    for line in lines[:MAX_ROWS]:
        yield f"- {_text(line, LONGEST_LINE)}"
    if len(lines) > MAX_ROWS:
        yield f"- and {len(lines) - MAX_ROWS} more, in comparison.json"


def _runs(ids: Sequence[str]) -> str:
    shown = ", ".join(_text(run_id) for run_id in ids[:MAX_ROWS])
    return shown if len(ids) <= MAX_ROWS else f"{shown} and {len(ids) - MAX_ROWS} more"


def _changed(comparison: Comparison) -> Iterable[str]:
    """The figures that are worse or better, the largest change first."""
    figures = [figure for figure in comparison.figures if figure.verdict in ("worse", "better")]
    if not figures:
        return
    ordered = sorted(figures, key=lambda figure: (figure.verdict != "worse", -size_of(figure)))
    yield ""
    yield from _table(comparison, ordered[:MAX_ROWS])
    if len(ordered) > MAX_ROWS:
        yield ""
        yield f"and {len(ordered) - MAX_ROWS} more, below"


def _all_figures(comparison: Comparison) -> Iterable[str]:
    start, end, title, title_end = _DETAILS
    yield ""
    yield f"{start}{title}All {len(comparison.figures)} figures{title_end}"
    yield ""
    yield from _table(comparison, comparison.figures)
    yield ""
    yield end


def _table(comparison: Comparison, figures: Sequence[Figure]) -> Iterable[str]:
    yield "| figure | BASE | NEW | change | 95 % interval | verdict |"
    yield "|:---|---:|---:|---:|---:|:---|"
    for figure in figures:
        needed = f" ({needed_text(comparison, figure)})" if figure.runs_needed is not None else ""
        cells = (
            marked_name(comparison, figure),
            value_text(figure, figure.base),
            value_text(figure, figure.new),
            change_text(figure),
            interval_text(figure),
            f"{figure.verdict}{needed}",
        )
        yield f"| {' | '.join(map(_text, cells))} |"


def _differing(comparison: Comparison) -> Iterable[str]:
    allowed = [each for each in comparison.differences if each.allowed]
    if not allowed:
        return
    yield ""
    yield "What differs:"
    yield ""
    for each in allowed:
        yield f"- {_text(each.subject)}: {_text(each.base)} in BASE, {_text(each.new)} in NEW"


def _text(text: str, longest: int = LONGEST_CELL) -> str:
    return escape(text if len(text) <= longest else f"{text[: longest - 1]}…") or UNKNOWN


def _fenced(command: str) -> str:
    """A command in a fence that is longer than any fence in the command."""
    shown = printable(command)[: MAX_CHARACTERS // 4]
    fence = "```"
    while fence in shown:
        fence += "`"
    return f"\n{fence}sh\n{shown}\n{fence}\n"


def _joined(lines: Iterable[str], budget: int) -> str:
    """As many lines as fit. If some do not fit, a row says how many are left out, and open elements are closed."""
    text, rest = "", list(lines)
    room = budget - len(_CUT) - len(_DETAILS[1]) - 20  # for the line that is added, with a number in it
    while rest and len(text) + len(rest[0]) + 1 <= room:
        text += f"{rest.pop(0)}\n"
    if not rest:
        return text
    ending = f"\n{_DETAILS[1]}\n" if _DETAILS[0] in text else ""
    return f"{text}\n{_CUT.format(sum(line.startswith(('|', '-')) for line in rest))}\n{ending}"
