"""A calibration as text: the table of its steps, and three lines with the result. Pure."""

from typing import Final

from loadgen.calibrate.conclude import STRETCH, Line, crossed
from loadgen.report.console import lines_text, table_text
from loadgen.report.section import Column, Row, Table
from loadgen.report.text_table import Screen
from loadgen.store.calibration import Calibration, ErrorBand, ErrorSpread, Limit, Step

WHY: Final[dict[Line, str]] = {
    "answers": "answers",
    "stamps": "stamps",
    "cpu": "CPU",
    "lag": "lag",
    "shared": "shared",
}
"""The word for each limit that a step may exceed."""
BUSY: Final = 0.1
WIDE: Final = 150
TEXT: Final = ("pace", "beyond")
SHORT: Final = ("streams", "pace", "events/s", "stamp p99", "CPU", "lag ms", "beyond")
LONG: Final = (
    *("streams", "pace", "ITL ms", "events/s", "kernel stamps", "user stamps", "TTFT p99", "ITL p99"),
    *("shared", "µs/event", "CPU", "lag ms", "beyond"),
)


def calibration_text(calibration: Calibration, screen: Screen) -> str:
    """The complete text: the table of the steps, and the result."""
    heads = LONG if screen.width is None or screen.width >= WIDE else SHORT
    cells = [_cells(step) for step in calibration.steps]
    rows = tuple(Row(tuple(row[head] for head in heads)) for row in cells)
    columns = tuple(Column(head, "text" if head in TEXT else "number") for head in heads)
    title = "Errors in µs" + (" (p50 / p99 / max)" if heads is LONG else "")
    return table_text(Table(columns, rows), title, screen) + "\n" + lines_text(conclusion(calibration), screen)


def conclusion(calibration: Calibration) -> list[str]:
    """One line each for error band, ceiling and budget, and further remarks."""
    ceiling, budget = calibration.ceiling, calibration.budget
    cost = calibration.cpu_us_per_event
    spent = "" if cost is None else f", at {cost:.1f} µs of CPU each"
    lines = [
        f"error band: {_band(calibration.band)}",
        f"ceiling:    {_most(ceiling.events_per_s)} token events a second, {_most(ceiling.streams)} streams at once",
        f"budget:     {budget.events_per_s:,.0f} token events a second{spent}; {budget.streams:,} streams at once",
    ]
    wrong, answers = (sum(getattr(step, name) for step in calibration.steps) for name in ("wrong", "answers"))
    if wrong:
        lines.append(f"{wrong:,} of {answers:,} answers were not what was sent: do not trust this machine's runs")
    if calibration.busy_share > BUSY:
        busy = f"{calibration.busy_share:.0%}"
        lines.append(f"others kept the machine {busy} busy before we began: on a quiet one, more may hold")
    return lines


def _band(band: ErrorBand) -> str:
    known = [
        f"{name} stamps {_spread(each)} µs" for name, each in (("kernel", band.kernel), ("user", band.user)) if each
    ]
    if not known:
        return "not known, as no load was within the lines of a valid run"
    none = [] if band.kernel else ["the kernel gives none here"]
    return "; ".join([*known, *none]) + " (p50 / p99 / max, at worst)"


def _spread(spread: ErrorSpread | None) -> str:
    if spread is None:
        return "–"
    return f"{_us(spread.p50_us)} / {_us(spread.p99_us)} / {_us(spread.max_us)}"


def _us(value: float) -> str:
    return f"{value:.1f}" if value < 100 else f"{value:,.0f}"


def _most(most: Limit) -> str:
    return f"{'at least ' if most.at_least else ''}{most.value:,.0f}"


def _cells(step: Step) -> dict[str, str]:
    """By heading."""
    lag = step.loop_lag_p99_ms
    beyond = [WHY[line] for line in crossed(step)] + (["server late"] if step.stretch > STRETCH else [])
    return {
        "streams": f"{step.streams:,}",
        "pace": step.pace,
        "ITL ms": f"{step.itl_ms:g}",
        "events/s": f"{step.events_per_s:,.0f}",
        "kernel stamps": _spread(step.kernel),
        "user stamps": _spread(step.user),
        "stamp p99": _p99(step.stamp),
        "TTFT p99": _p99(step.service_ttft),
        "ITL p99": _p99(step.itl),
        "shared": f"{step.shared_share:.1%}",
        "µs/event": f"{step.cpu_us_per_event:.1f}",
        "CPU": f"{step.cpu_share:.0%}",
        "lag ms": "–" if lag is None else f"{lag:.1f}",
        "beyond": ", ".join(beyond),
    }


def _p99(spread: ErrorSpread | None) -> str:
    return "–" if spread is None else _us(spread.p99_us)
