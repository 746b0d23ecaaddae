"""Formats numbers for readers. Pure; all reports use it, so that they never differ."""

from decimal import Decimal

from loadgen.analysis.quality_types import Quality
from loadgen.analysis.summary import Metric, StageSummary
from loadgen.plan.plan import StageLoad
from loadgen.plan.visits import visit_number
from loadgen.store.manifest import PlannedStage

UNKNOWN = "–"


def format_duration(ms: float | None) -> str:
    """Milliseconds with three significant digits, in ms or s: 0.042 ms, 8.4 ms, 177 ms, 1.62 s."""
    if ms is None:
        return UNKNOWN
    if abs(ms) >= 1000:
        return f"{ms / 1000:.3g} s" if abs(ms) < 100_000 else f"{ms / 1000:.0f} s"
    return f"{ms:.0f} ms" if abs(ms) >= 99.95 else f"{ms:.3g} ms"


def format_number(value: float | None, digits: int = 3) -> str:
    """A number with `digits` significant digits, never in scientific notation."""
    if value is None:
        return UNKNOWN
    if value == 0 or abs(value) >= 10 ** (digits - 1):
        return f"{value:.0f}"
    return f"{Decimal(f'{value:.{digits}g}'):f}"


def format_percent(value: float | None) -> str:
    """A share of one as percent, never in scientific notation."""
    return UNKNOWN if value is None else f"{format_number(value * 100)} %"


def format_quality(quality: Quality) -> str:
    """The mean quality of a stage."""
    return UNKNOWN if quality.mean is None else f"{quality.mean:.1f}"


def format_quality_interval(quality: Quality) -> str:
    """The interval of the mean quality."""
    return UNKNOWN if quality.ci is None else f"{quality.ci[0]:.1f}–{quality.ci[1]:.1f}"


def format_percentile(metric: Metric, name: str) -> str:
    """A percentile; or `≥` and its lower bound if there are too few samples; or a dash if the bound says nothing."""
    value, bound = metric.percentile(name).value, lower_bound(metric, name)
    if value is not None:
        return format_duration(value)
    return UNKNOWN if bound is None else f"≥ {format_duration(bound)}"


def lower_bound(metric: Metric, name: str) -> float | None:
    """The lower bound of a percentile that is not known; None if it says nothing, because the median is above it."""
    percentile, median = metric.percentile(name), metric.percentile("p50")
    middle = median.at_least if median.value is None else median.value
    if percentile.value is not None or percentile.at_least is None:
        return None
    return None if name != "p50" and middle is not None and percentile.at_least < middle else percentile.at_least


def format_interval(metric: Metric, name: str) -> str:
    """The 95 % interval of a percentile; empty if it has none."""
    percentile = metric.percentile(name)
    if percentile.value is None:
        return ""
    return f"{format_duration(percentile.low)} – {format_duration(percentile.high)}"


def format_range(low: float, high: float) -> str:
    """A range of durations, with the unit only once if both have the same: 1.19–1.43 s."""
    first, last = format_duration(low), format_duration(high)
    number, _, unit = first.partition(" ")
    return f"{number}–{last}" if last.endswith(f" {unit}") else f"{first}–{last}"


def format_with_interval(metric: Metric, name: str) -> str:
    """A percentile, with its 95 % interval in parentheses if it has one."""
    bounds = format_interval(metric, name)
    return f"{format_percentile(metric, name)} ({bounds})" if bounds else format_percentile(metric, name)


def format_load(load: StageLoad) -> str:
    """A load for the row of a stage: `4 users`, `5 /s poisson`."""
    match load:
        case StageLoad(mode="closed", concurrency=int(users)):
            return format_count(users, "user")
        case StageLoad(mode="ramp", from_per_s=float(low), to_per_s=float(high)):
            return f"{low:g} → {high:g} /s"
        case StageLoad(mode="gamma", rate_per_s=float(rate), burstiness=float(burstiness)):
            return f"{rate:g} /s gamma {burstiness:g}"
        case StageLoad(rate_per_s=float(rate)):
            return f"{rate:g} /s {load.mode}"
        case _:
            return load.mode


def format_stage_load(stage: StageSummary | PlannedStage) -> str:
    """The load of a stage for its row: `4 users`, and `4 users (visit 2)` if a search has played the level again."""
    number = visit_number(stage.load, stage.level)
    return format_load(stage.load) + (f" (visit {number})" if number > 1 else "")


def format_bytes(count: int | None) -> str:
    """A size in MiB or GiB."""
    if count is None:
        return UNKNOWN
    return f"{count / 2**30:.2f} GiB" if count >= 2**30 else f"{count / 2**20:.0f} MiB"


def format_count(count: int, noun: str) -> str:
    """A number of things: `1 stage`, `2 stages`."""
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


def format_minutes(seconds: float) -> str:
    """An approximate duration: `about 40 s`, `about 6 min`, `about 2.5 h`."""
    if seconds < 90:
        return f"about {max(1, round(seconds))} s"
    return f"about {seconds / 60:.0f} min" if seconds < 5400 else f"about {seconds / 3600:.1f} h"


def format_time(seconds: float) -> str:
    """A time as text: `42 s`, `4 min 10 s`, `1 h 20 min`."""
    rounded_s = round(seconds)
    if rounded_s < 60:
        return f"{rounded_s} s"
    if rounded_s < 3600:
        minutes, rest = divmod(rounded_s, 60)
        return f"{minutes} min {rest} s" if rest else f"{minutes} min"
    hours, rest = divmod(round(seconds / 60), 60)
    return f"{hours} h {rest} min" if rest else f"{hours} h"


def format_signed(value: float) -> str:
    """A difference with its sign, without a unit: `+9.8`, `−2.1`, `0`, `+1914`; never in scientific notation."""
    text = f"{abs(value):.1f}" if abs(value) < 99.95 else f"{abs(value):.0f}"
    return "0" if float(text) == 0 else f"{'+' if value > 0 else '−'}{text}"
