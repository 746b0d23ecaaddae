"""The best model for each measure at the same load, as far as the samples show it. Pure.

A model is named only if its interval overlaps no other model's, so that chance alone cannot decide a highlight.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Final, Literal

from msgspec import UNSET, Struct

from loadgen.analysis.summary import StageSummary, Summary
from loadgen.report.format import format_duration, format_number, format_stage_load
from loadgen.report.section import ReportData, Section

NOTHING: Final = "no difference detectable at this n"


class _Figure(Struct, frozen=True):
    """A figure with its 95 % interval; low and high are None if the samples do not bound it."""

    value: float
    low: float | None
    high: float | None


class _Measure(Struct, frozen=True):
    """A measure by which models are compared."""

    title: str
    metric: str
    """The name of the metric in `not_valid`."""
    best: Literal["lowest", "highest"]
    read: Callable[[StageSummary], _Figure | None]
    show: Callable[[float | None], str]


def highlights(data: ReportData) -> Section | None:
    """None with one model, or if no two models were played at the same level."""
    points = tuple(highlight_lines(data.summary))
    return Section(title="Highlights", anchor="highlights", points=points) if points else None


def highlight_lines(summary: Summary) -> list[str]:
    """One line for each level and measure for which two or more models can be compared."""
    lines = []
    for level in dict.fromkeys(stage.level for stage in summary.stages):
        played = [stage for stage in summary.stages if stage.level == level and stage.status == "played"]
        stages = [stage for stage in played if _is_sound(stage)]
        unsound = [_who(stage) for stage in played if not _is_sound(stage)]
        if unsound and len(played) > 1:
            invalid = f"{', '.join(unsound)} {'is' if len(unsound) == 1 else 'are'} invalid"
            lines.append(f"{format_stage_load(played[0])}: {invalid}, so not compared")
        if len(stages) > 1:
            lines += [line for measure in _MEASURES if (line := _line(measure, stages)) is not None]
            lines += _memory(stages)
    return lines


def _is_sound(stage: StageSummary) -> bool:
    return stage.validity is not UNSET and stage.validity.verdict != "invalid"


def _line(measure: _Measure, stages: Sequence[StageSummary]) -> str | None:
    load = format_stage_load(stages[0])
    why = next((stage.not_valid[measure.metric] for stage in stages if measure.metric in stage.not_valid), None)
    if why is not None:
        return f"{load}, {measure.title}: not compared: {why}"
    figures = [(stage, figure) for stage in stages if (figure := measure.read(stage)) is not None]
    if len(figures) < len(stages):
        return None
    sign = 1 if measure.best == "lowest" else -1
    figures.sort(key=lambda pair: sign * pair[1].value)
    stage, best = figures[0]
    if not all(_is_apart(measure, best, other) for _, other in figures[1:]):
        values = ", ".join(f"{_who(stage)} {measure.show(figure.value)}" for stage, figure in figures)
        return f"{load}, {measure.title}: {NOTHING} ({values})"
    rest = ", ".join(f"{_who(stage)} {measure.show(figure.value)}" for stage, figure in figures[1:])
    interval = f"{measure.show(best.low)} – {measure.show(best.high)}"
    return f"{load}, {measure.title}: {_who(stage)}, {measure.show(best.value)} ({interval}); {rest}"


def _is_apart(measure: _Measure, best: _Figure, other: _Figure) -> bool:
    if best.low is None or best.high is None or other.low is None or other.high is None:
        return False
    return best.high < other.low if measure.best == "lowest" else best.low > other.high


def _who(stage: StageSummary) -> str:
    return f"{stage.model} on {stage.target}"


def _median(metric: str, stage: StageSummary) -> _Figure | None:
    latency = stage.metric(metric)
    if latency is None or latency.mean is None:
        return None
    median = latency.percentile("p50")
    low, high = median.interval or (None, None)
    return _Figure(latency.mean if median.value is None else median.value, low, high)


def _answer_speed(stage: StageSummary) -> _Figure | None:
    throughput = stage.throughput
    if throughput is UNSET or throughput.e2e_tokens_per_s is None:
        return None
    low, high = throughput.e2e_tokens_per_s_ci or (None, None)
    return _Figure(throughput.e2e_tokens_per_s, low, high)


def _show_rate(value: float | None) -> str:
    return f"{format_number(value)} tok/s"


_MEASURES: Final = (
    _Measure("lowest TTFT", "ttft_ms", "lowest", partial(_median, "ttft_ms"), format_duration),
    _Measure("lowest E2E", "e2e_ms", "lowest", partial(_median, "e2e_ms"), format_duration),
    _Measure("least time per token", "tpot_ms", "lowest", partial(_median, "tpot_ms"), format_duration),
    _Measure("highest throughput of an answer", "e2e_tokens_per_s", "highest", _answer_speed, _show_rate),
)


def _memory(stages: Sequence[StageSummary]) -> list[str]:
    """The sampled peak memory of the servers. It has no interval; a model is named if the figures differ."""
    peaks = [(peak, stage) for stage in stages if (peak := stage.peak_mib) is not None]
    if len(peaks) < len(stages):
        return []
    peaks.sort(key=lambda pair: pair[0])
    texts = [f"{peak:.0f} MiB" for peak, _ in peaks]
    if texts[0] == texts[1]:
        return []
    rest = ", ".join(f"{_who(stage)} {text}" for text, (_, stage) in zip(texts[1:], peaks[1:], strict=True))
    return [f"{format_stage_load(stages[0])}, smallest memory: {_who(peaks[0][1])}, {texts[0]} at its peak; {rest}"]
