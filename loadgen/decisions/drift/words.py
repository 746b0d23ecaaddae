"""The verdict on a soak in words: one sentence, one row a metric, and what happened. Pure."""

from collections.abc import Sequence
from typing import Final

from msgspec import UNSET, Struct

from loadgen.analysis.soak_types import (
    DRIFT_VERDICTS,
    MAY_BE_UNSURE,
    Drift,
    DriftMetric,
    DriftMetricName,
    DriftVerdict,
    SoakSummary,
)
from loadgen.analysis.summary import StageSummary, Summary
from loadgen.decisions.drift.verdict import MIN_ANSWERS
from loadgen.plan.soak import MIN_WINDOWS
from loadgen.report.format import (
    UNKNOWN,
    format_bytes,
    format_count,
    format_duration,
    format_number,
    format_percent,
    format_signed,
    format_time,
)
from loadgen.store.events import Event, EventKind

NAMED_IF_STABLE: Final[tuple[DriftMetricName, ...]] = ("ttft_p50", "itl_p50", "server_memory")
"""The series that the sentence of a stable soak names."""
_TITLES: Final[dict[DriftMetricName, str]] = {
    "ttft_p50": "TTFT p50",
    "ttft_tail": "TTFT",
    "itl_p50": "ITL p50",
    "itl_tail": "ITL",
    "stream_tokens_per_s": "tok/s/stream",
    "failed_share": "failed",
    "server_memory": "memory",
    "temperature": "temperature",
}
_NAMES_OF_EVENTS: Final[dict[EventKind, str]] = {
    "server_gone": "the server was gone",
    "server_back": "the server answered again",
    "server_restarted": "the server was restarted",
    "suspended": "the machine was suspended",
    "stopped": "loadgen was not run",
    "clock_stepped": "the clock was set",
    "throttled": "the processor was throttled",
    "power_changed": "the power supply changed",
    "records_dropped": "the oldest records were removed",
    "records_reopened": "the log of requests was opened again",
    "disk_low": "the disk was almost full",
    "resumed": "the soak was resumed",
    "model_reloaded": "the model was loaded again",
}


class ModelSoak(Struct, frozen=True):
    """A model of a soak of which there are windows."""

    summary: StageSummary
    soak: SoakSummary
    drift: Drift

    @property
    def who(self) -> str:
        return f"{self.summary.model} on {self.summary.target}"


def models_of_soak(summary: Summary) -> tuple[ModelSoak, ...]:
    """The models of a soak that were played."""
    return tuple(
        ModelSoak(stage, stage.soak, stage.drift)
        for stage in summary.stages
        if stage.soak is not UNSET and stage.drift is not UNSET
    )


def soak_word(stages: Sequence[ModelSoak]) -> DriftVerdict:
    """The worst word of the models; without any model, nothing is known."""
    return min((stage.drift.verdict for stage in stages), key=DRIFT_VERDICTS.index, default="not enough data")


def soak_sentence(summary: Summary) -> str:
    """The verdict in one sentence, of all models."""
    stages = models_of_soak(summary)
    if not stages:
        return "not enough data: no window is complete."
    ordered = sorted(stages, key=lambda stage: DRIFT_VERDICTS.index(stage.drift.verdict))
    texts = [f"{stage.who}: {stage_sentence(stage)}" if len(stages) > 1 else stage_sentence(stage) for stage in ordered]
    return f"{'so far ' if summary.incomplete else ''}{'; '.join(texts)}."


def stage_sentence(stage: ModelSoak) -> str:
    """The verdict on one model, and what else a reader must know: outages, and whether it can be believed."""
    parts = [verdict_clause(stage), *_events_clause(stage.soak)]
    validity = stage.summary.validity
    if validity is not UNSET and validity.verdict == "invalid":
        parts.append("the soak is invalid")
    if stage.drift.short and stage.drift.verdict in ("degrading", "improving"):
        parts.append("short: within two hours, a slow wander looks like drift")
    return "; ".join(parts)


def verdict_clause(stage: ModelSoak) -> str:
    """The word, and the metrics that decide it."""
    drift = stage.drift
    match drift.verdict:
        case "degrading" | "improving" as word:
            first, *rest = _moved(drift, word)
            also = f"; also {', '.join(_short(name, metric) for name, metric in rest)}" if rest else ""
            return f"{word}: {_change_clause(*first)}{also}"
        case "stable":
            return f"stable{_over(drift)}{_within(drift)}"
        case "not enough data":
            return f"not enough data: {_why_unsure(stage)}"


def _moved(drift: Drift, word: DriftVerdict) -> list[tuple[DriftMetricName, DriftMetric]]:
    """The metrics with this word, the surest first. The temperature is no verdict, but may be named beside one."""
    moved = [(name, metric) for name, metric in drift.metrics.items() if metric.verdict == word]
    return sorted(moved, key=lambda pair: (pair[0] == "temperature", pair[1].p_adjusted or 0.0))


def _change_clause(name: DriftMetricName, metric: DriftMetric) -> str:
    """`TTFT p50 rose by 12.3 % (7.1 to 16.6) in 7 h 40 min, from 212 ms to 238 ms, since 02:14 UTC`."""
    verb = "rose" if (metric.change or 0.0) > 0 else "fell"
    size = change_text(name, metric).lstrip("+−")
    interval = "" if metric.change_ci is None else f" ({interval_text(name, metric)})"
    ends = f", from {level_text(metric, metric.start)} to {level_text(metric, metric.end)}"
    return f"{title_of(name, metric)} {verb} by {size}{interval}{_in(metric)}{ends}, {since_text(metric)}"


def _short(name: DriftMetricName, metric: DriftMetric) -> str:
    return f"{title_of(name, metric)} {change_text(name, metric)}"


def _in(metric: DriftMetric) -> str:
    if metric.from_ns is None or metric.to_ns is None:
        return ""
    return f" in {format_time((metric.to_ns - metric.from_ns) / 1e9)}"


def _over(drift: Drift) -> str:
    spans_ns = [
        metric.to_ns - metric.from_ns
        for metric in drift.metrics.values()
        if metric.from_ns is not None and metric.to_ns is not None
    ]
    return f" over {format_time(max(spans_ns) / 1e9)}" if spans_ns else ""


def _within(drift: Drift) -> str:
    known = [
        f"{title_of(name, metric)} within ±{_size_text(name, metric.within)}"
        for name in NAMED_IF_STABLE
        if (metric := drift.metrics.get(name)) is not None and metric.within is not None
    ]
    return f": {', '.join(known)}" if known else ""


def _why_unsure(stage: ModelSoak) -> str:
    drift = stage.drift
    match drift.why:
        case "few_windows":
            fit = drift.windows + drift.warm_up
            has = f"it has {format_count(stage.soak.windows, 'window')}"
            if fit < stage.soak.windows:
                has = f"only {fit} of its {format_count(stage.soak.windows, 'window')} can be tested"
            return f"{has}, and a verdict needs {MIN_WINDOWS}"
        case "few_requests":
            ok = 0 if stage.summary.requests is UNSET else stage.summary.requests.ok
            if ok < MIN_ANSWERS:
                return f"it has {format_count(ok, 'answered request')}, and a verdict needs {MIN_ANSWERS}"
            return f"the windows that can be tested have fewer than the {MIN_ANSWERS} answers that a verdict needs"
    unsure = [
        f"{title_of(name, metric)} by {_size_text(name, metric.could_show)}"
        for name, metric in drift.metrics.items()
        if metric.verdict == "not enough data" and metric.could_show is not None and name not in MAY_BE_UNSURE
    ]
    if not unsure:
        return "no series could be tested"
    return f"a change of {' or of '.join(unsure)} or less would not have shown"


def _events_clause(soak: SoakSummary) -> list[str]:
    clauses = []
    if soak.outages.count:
        clauses.append(f"{format_count(soak.outages.count, 'outage')} ({format_time(soak.outages.s)})")
    if soak.suspended_s:
        clauses.append(f"suspended for {format_time(soak.suspended_s)}")
    if soak.stopped_s:
        clauses.append(f"not run for {format_time(soak.stopped_s)}")
    if soak.server_restarts:
        clauses.append(f"the server was restarted {_times(soak.server_restarts)}")
    return clauses


def _times(count: int) -> str:
    return "once" if count == 1 else f"{count} times"


def title_of(name: DriftMetricName, metric: DriftMetric | None = None) -> str:
    """The title of a series: `TTFT p50`, `ITL p95`."""
    is_tail = metric is not None and metric.percentile is not UNSET
    return f"{_TITLES[name]} {metric.percentile}" if metric is not None and is_tail else _TITLES[name]


def change_text(name: DriftMetricName, metric: DriftMetric) -> str:
    """A change with its sign and unit: `+12.3 %`, `−0.4 points`, `+3 °C`."""
    return UNKNOWN if metric.change is None else f"{_signed(name, metric.change)}{_unit_of_change(name)}"


def interval_text(name: DriftMetricName, metric: DriftMetric) -> str:
    """The 95 % interval of a change, in the unit of the change: `+7.1 to +16.6`."""
    return UNKNOWN if metric.change_ci is None else " to ".join(_signed(name, end) for end in metric.change_ci)


def _signed(name: DriftMetricName, change: float) -> str:
    return format_signed(change if name == "temperature" else 100 * change)


def _unit_of_change(name: DriftMetricName) -> str:
    return {"failed_share": " points", "temperature": " °C"}.get(name, " %")


def _size_text(name: DriftMetricName, size: float) -> str:
    """The size of a change, without a sign: `6 %`, `0.4 points`."""
    amount = abs(size) if name == "temperature" else 100 * abs(size)
    return f"{format_number(amount, 2)}{_unit_of_change(name)}"


def level_text(metric: DriftMetric, value: float | None) -> str:
    """A level of a series with its unit."""
    if value is None:
        return UNKNOWN
    match metric.unit:
        case "ms":
            return format_duration(value)
        case "share":
            return format_percent(value)
        case "MiB":
            return f"{value:.0f} MiB"
        case "tokens/s" | "°C":
            return f"{format_number(value)} {'/s' if metric.unit == 'tokens/s' else metric.unit}"


def since_text(metric: DriftMetric) -> str:
    """When a metric changed: `since 02:14 UTC (01:50 to 02:31)`, or `all along`."""
    if metric.since_utc is None:
        return "all along"
    between = metric.since_between_utc
    span = "" if between is None else f" ({_clock_of(between[0])} to {_clock_of(between[1])})"
    return f"since {_clock_of(metric.since_utc)} UTC{span}"


def _clock_of(utc: str) -> str:
    return utc[11:16]


def detail_text(name: DriftMetricName, metric: DriftMetric) -> str:
    """What belongs to the word of a metric: `±6.2 %`, `since 02:14 UTC`."""
    parts = []
    match metric.verdict:
        case "stable" if metric.within is not None:
            parts.append(f"±{_size_text(name, metric.within)}")
        case "not enough data" if metric.could_show is not None and abs(metric.change or 0.0) <= metric.could_show:
            parts.append(f"±{_size_text(name, metric.could_show)} would show")
        case "degrading" | "improving":
            parts.append(since_text(metric))
    if name == "temperature" or (name in MAY_BE_UNSURE and metric.verdict == "not enough data"):
        parts.append("does not count")
    return ", ".join(parts)


def event_text(event: Event) -> str:
    """An event in plain words."""
    return _NAMES_OF_EVENTS[event.kind]


def remarks_of(model: ModelSoak) -> tuple[str, ...]:
    """What a reader of the table must know beside it."""
    drift, soak = model.drift, model.soak
    remarks = [] if (memory := _memory_remark(drift)) is None else [memory]
    if drift.why is None:
        left_out = drift.left_out - drift.warm_up
        rest = f", {left_out} lie in a gap or are not valid" if left_out else ""
        remarks.append(f"{drift.windows} of {soak.windows} windows are tested: {drift.warm_up} are warm-up{rest}")
    if drift.short and drift.why is None and drift.verdict not in ("degrading", "improving"):
        remarks.append("short: soak two hours or more, because a slow wander of the pace looks like drift within less")
    if soak.records_dropped_windows:
        dropped = format_count(soak.records_dropped_windows, "window")
        remarks.append(f"the records of {dropped} were removed to stay within --disk; the verdict needs none of them")
    if soak.own_memory_mib_per_h is not None and not drift.short:
        remarks.append(f"loadgen's own memory: {_mib(soak.own_memory_mib_per_h)}/h")
    return tuple(remarks)


def _memory_remark(drift: Drift) -> str | None:
    """By how much the server's memory grows, and when it would be full; None if that is not known."""
    metric = drift.metrics.get("server_memory")
    if metric is None or metric.verdict == "stable" or not isinstance(metric.mib_per_h, float):
        return None
    per = [f"{_mib(metric.mib_per_h)}/h"]
    if isinstance(metric.mib_per_request, float):
        per.append(f"{_kib(metric.mib_per_request)} a request")
    if isinstance(metric.mib_per_1000_tokens, float):
        per.append(f"{_kib(metric.mib_per_1000_tokens)} per 1,000 output tokens")
    full = ""
    if isinstance(metric.full_in_h, float):
        full = f"; at this pace, it fills the machine's memory in {format_number(metric.full_in_h)} h"
    return f"memory of the server: {', '.join(per)}{full}"


def _mib(mib: float) -> str:
    return f"{format_signed(mib)} MiB"


def _kib(mib: float) -> str:
    """In KiB, or in MiB from one on."""
    return _mib(mib) if abs(mib) >= 1 else f"{format_signed(mib * 1024)} KiB"


def page_left_out(page_bytes: int, budget_bytes: int) -> str:
    """Why the page of a soak is not in its folder, and what writes it elsewhere."""
    return (
        f"report.html is left out: it has {format_bytes(page_bytes)}, and with it the run folder would be larger than "
        f"its budget of {format_bytes(budget_bytes)}. `loadgen report RUN --html PATH` writes it elsewhere."
    )
