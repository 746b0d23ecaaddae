"""The table of a history: a row a series, with a sparkline of its last nights. Pure."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Final

from loadgen.decisions.history.series import NightSeries
from loadgen.decisions.history.verdict import HistoryAnswer
from loadgen.decisions.history.words import (
    format_value,
    history_lines,
    series_name,
    signed_text,
    sparkline,
    title_text,
    verdict_sentence,
)
from loadgen.report.console import table_text
from loadgen.report.format import UNKNOWN
from loadgen.report.section import Column, Row, Table
from loadgen.report.text_table import GAP, Screen, wrap
from loadgen.stats.median import median

SHOWN_NIGHTS: Final = 60
"""How many nights a sparkline shows."""
SHORTEST_SPARKLINE: Final = 10
COMPARED: Final = 30
"""The change of a series is told over so many nights."""
MIDDLE: Final = 3
"""How many nights a median is of, at either end of that change."""
OVER: Final = f"over {COMPARED} nights"


def history_text(answer: HistoryAnswer, remarks: Sequence[str], screen: Screen) -> str:
    """What `loadgen history` prints: the verdict, a line a group, and a row a series."""
    verdict = (screen.styled(line, "bold") for line in _wrapped(verdict_sentence(answer), screen))
    changes = (part for line in history_lines(answer) for part in _wrapped(f"· {line}", screen, "  "))
    head = [*_wrapped(title_text(answer), screen), *verdict, *changes]
    width = _sparkline_width(_table(answer.series, 0), screen)
    groups = _by_name(answer)
    tables = [table_text(_table(series, width), name, screen) for name, series in groups.items()]
    tail = [part for remark in remarks for part in _wrapped(f"· {remark}", screen, "  ")]
    return "".join((*_lines(head), *tables, *_lines(tail)))


def _lines(lines: Iterable[str]) -> Iterator[str]:
    return (f"{line}\n" for line in lines)


def _wrapped(text: str, screen: Screen, indent: str = "") -> list[str]:
    return wrap(screen.spelled(text), screen.width, indent)


def _by_name(answer: HistoryAnswer) -> dict[str, list[NightSeries]]:
    """The series of each model, level and so on, as far as there are several."""
    groups: dict[str, list[NightSeries]] = {}
    for series in answer.series:
        groups.setdefault(series_name(answer, series.stage.key), []).append(series)
    return groups


def series_table(answer: HistoryAnswer) -> Table:
    """A row a series, without a sparkline."""
    table, names = _table(answer.series, 0), [series_name(answer, series.stage.key) for series in answer.series]
    if not any(names):
        return table
    rows = (Row((name, *row.cells)) for name, row in zip(names, table.rows, strict=True))
    return Table((Column("series", "text"), *table.columns), tuple(rows))


def _table(series: Sequence[NightSeries], width: int) -> Table:
    """A row a series. width: how many characters a sparkline has; 0: there is none."""
    columns = [Column("metric", "text"), Column("last"), Column(OVER), Column("nights", rank=1)]
    rows = [[each.metric.name, _last(each), _over(each), str(len(each.used))] for each in series]
    if width:
        columns.append(Column(f"the last {SHOWN_NIGHTS} nights", "text"))
        rows = [[*row, sparkline(_shown(each), width)] for row, each in zip(rows, series, strict=True)]
    return Table(tuple(columns), tuple(Row(tuple(row)) for row in rows))


def _shown(series: NightSeries) -> list[float | None]:
    used = dict(series.used)
    return [used.get(night) for night in series.stage.nights[-SHOWN_NIGHTS:]]


def _last(series: NightSeries) -> str:
    used = series.used
    return format_value(series.metric, used[-1][1]) if used else UNKNOWN


def _over(series: NightSeries) -> str:
    """The change of the median of three nights, against that of three nights 30 nights before."""
    values = [value for _, value in series.used]
    if len(values) < COMPARED + MIDDLE:
        return UNKNOWN
    before, after = median(values[-COMPARED - MIDDLE : -COMPARED]), median(values[-MIDDLE:])
    if not series.metric.unit:
        return signed_text(series.metric, after - before)
    return signed_text(series.metric, after / before - 1) if before > 0 else UNKNOWN


def _sparkline_width(table: Table, screen: Screen) -> int:
    """How many characters are left for a sparkline beside a table; 0 if a screen cannot show one."""
    if not screen.encoding.lower().startswith("utf"):
        return 0
    if screen.width is None:
        return SHOWN_NIGHTS
    cells = [[column.title, *(row.cells[at] for row in table.rows)] for at, column in enumerate(table.columns)]
    left = screen.width - sum(max(map(len, column)) + GAP for column in cells)
    return min(SHOWN_NIGHTS, left) if left >= SHORTEST_SPARKLINE else 0
