"""Which model is best at what, at the same load, as far as the samples show it. Pure: a summary in, sentences out.

A model is named only where its interval lies apart from that of every other; so a highlight is never a toss of a coin.
"""

from collections.abc import Callable, Sequence
from typing import Final

from msgspec import UNSET, Struct

from loadgen.analysis.summary import StageSummary, Summary
from loadgen.report.format import format_duration, format_load, format_number

NOTHING: Final = "no difference detectable at this n"


class _Seen(Struct, frozen=True):
    """A figure with its 95 % interval; low and high None where the samples do not bound it."""

    value: float
    low: float | None
    high: float | None


class _Measure(Struct, frozen=True):
    title: str
    lowest: bool
    seen: Callable[[StageSummary], _Seen | None]
    shown: Callable[[float | None], str]


def highlights(summary: Summary) -> list[str]:
    """A line for each level and measure at which two models or more can be compared; none with one model."""
    told = []
    for level in dict.fromkeys(stage.level for stage in summary.stages):
        stages = [stage for stage in summary.stages if stage.level == level and _is_sound(stage)]
        if len(stages) > 1:
            told += [line for measure in _MEASURES if (line := _line(measure, stages)) is not None]
            told += _memory(stages)
    return told


def _is_sound(stage: StageSummary) -> bool:
    return stage.status == "played" and stage.validity is not UNSET and stage.validity.verdict != "invalid"


def _line(measure: _Measure, stages: Sequence[StageSummary]) -> str | None:
    found = [(stage, seen) for stage in stages if (seen := measure.seen(stage)) is not None]
    if len(found) < len(stages):
        return None
    sign = 1 if measure.lowest else -1
    found.sort(key=lambda pair: sign * pair[1].value)
    load = format_load(stages[0].load)
    best, seen = found[0]
    if not all(_apart(seen, other, lowest=measure.lowest) for _, other in found[1:]):
        values = ", ".join(f"{_who(stage)} {measure.shown(other.value)}" for stage, other in found)
        return f"{load}, {measure.title}: {NOTHING} ({values})"
    rest = ", ".join(f"{_who(stage)} {measure.shown(other.value)}" for stage, other in found[1:])
    interval = f"{measure.shown(seen.low)} – {measure.shown(seen.high)}"
    return f"{load}, {measure.title}: {_who(best)}, {measure.shown(seen.value)} ({interval}); {rest}"


def _apart(best: _Seen, other: _Seen, *, lowest: bool) -> bool:
    if best.low is None or best.high is None or other.low is None or other.high is None:
        return False
    return best.high < other.low if lowest else best.low > other.high


def _who(stage: StageSummary) -> str:
    return f"{stage.model} on {stage.target}"


def _median(metric: str) -> Callable[[StageSummary], _Seen | None]:
    def seen(stage: StageSummary) -> _Seen | None:
        told = {} if stage.metrics is UNSET else stage.metrics.get(metric, {})
        if not told.get("count"):
            return None
        low, high = told.get("p50_ci") or (None, None)
        value = told.get("p50")
        return _Seen(told["mean"] if value is None else value, low, high)

    return seen


def _whole_speed(stage: StageSummary) -> _Seen | None:
    told = stage.throughput
    if told is UNSET or told.e2e_tokens_per_s is None:
        return None
    low, high = told.e2e_tokens_per_s_ci or (None, None)
    return _Seen(told.e2e_tokens_per_s, low, high)


def _rate(value: float | None) -> str:
    return f"{format_number(value)} tok/s"


_MEASURES: Final = (
    _Measure("lowest TTFT", True, _median("ttft_ms"), format_duration),
    _Measure("lowest E2E", True, _median("e2e_ms"), format_duration),
    _Measure("least time per token", True, _median("tpot_ms"), format_duration),
    _Measure("highest throughput of an answer", False, _whole_speed, _rate),
)


def _memory(stages: Sequence[StageSummary]) -> list[str]:
    """What the processes were seen to hold at most: no sample, so no interval; named where the figures differ."""
    told = [(peak, stage) for stage in stages if (peak := (stage.server or {}).get("rss_peak_mib")) is not None]
    if len(told) < len(stages):
        return []
    told.sort(key=lambda pair: float(pair[0]))
    shown = [f"{peak:.0f} MiB" for peak, _ in told]
    if shown[0] == shown[1]:
        return []
    rest = ", ".join(f"{_who(stage)} {text}" for text, (_, stage) in zip(shown[1:], told[1:], strict=True))
    return [f"{format_load(stages[0].load)}, smallest memory: {_who(told[0][1])}, {shown[0]} at its peak; {rest}"]
