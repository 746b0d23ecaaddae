"""Which of the numbers that are shown our own lateness makes wrong, and by how much. Pure.

In a closed loop, latencies count from the send, so a late send lengthens none of them. But it lowers the load, and so
the throughput. In an open loop, latencies count from when a request was due, so a late send lengthens all of them. With
user stamps, an event loop that is late lengthens them too.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

import numpy as np

from loadgen.analysis.metrics import MISSING, Ns, Window
from loadgen.analysis.stage import StageData
from loadgen.analysis.summary import Effect, Metric
from loadgen.record import LAG_PERCENTILES, Record, StageFacts
from loadgen.stats.quantile import Quantile, estimate, floor_of

SHOWN: Final = (50.0, 90.0, 95.0, 99.0, 99.9)
BOUNDS: Final = (50.0, 90.0, 99.0)
"""The percentiles in the main table, which shows a bound if the samples give no value."""
THROUGHPUT: Final = "throughput"
TICK_NS: Final = 20_000_000
"""How often the event loop's lag is measured (`loadgen.telemetry.observer`)."""


def slip_effect(stage: StageData) -> Effect | None:
    """The number of a stage that late dispatches make most wrong. None if nothing was dispatched."""
    if stage.latency_origin == "sent":
        return _lost_rate(stage)
    return max(_late_latencies(stage), default=None)


def _slip_ns(record: Record) -> int:
    return 0 if record.dispatched_ns is None else max(0, record.dispatched_ns - record.intended_ns - record.held_ns)


def _lost_rate(stage: StageData) -> Effect | None:
    """How much throughput a closed loop lost: the share of its users' time in the window in which they waited for us
    before they asked. None if there are too few requests for a median, or if no throughput is shown."""
    sent = [record for record in stage.together if record.dispatched_ns is not None]
    window, users = stage.steady_window, stage.planned.load.concurrency
    if len(sent) < floor_of(50.0) or window is None or not users:
        return None
    waits_ns = [_inside(window, (r.dispatched_ns or 0) - _slip_ns(r), r.dispatched_ns or 0) for r in sent]
    share = sum(waits_ns) / (users * max(1, window.end_ns - window.start_ns))
    return Effect(round(share, 4), THROUGHPUT, _in_ms(sum(map(_slip_ns, sent)) / len(sent)))


def _inside(window: Window, start_ns: int, end_ns: int) -> int:
    """How much of the time from start to end is in a window."""
    return max(0, min(end_ns, window.end_ns) - max(start_ns, window.start_ns))


def _late_latencies(stage: StageData) -> Iterable[Effect]:
    """By how much each shown percentile of an open loop differs from what it would be without our lateness."""
    late = np.fromiter(map(_slip_ns, stage.ok), np.int64, len(stage.ok))
    for name, title in (("ttft", "TTFT"), ("e2e", "E2E")):
        shown = stage.each[name]
        there = shown != MISSING
        if there.any():
            yield from _changes(title, shown[there], shown[there] - late[there], stage)


def _changes(title: str, shown: Ns, without: Ns, stage: StageData) -> Iterable[Effect]:
    pairs = zip(*(estimate(np.sort(values), SHOWN, floor=stage.floor) for values in (shown, without)), strict=True)
    for is_shown, would_be in pairs:
        high, low = _shown_number(is_shown), _shown_number(would_be)
        if is_shown.value is None and is_shown.p not in BOUNDS:
            continue
        if high is not None and low is not None and low > 0:
            yield Effect(round(high / low - 1, 4), f"{title} p{is_shown.p:g}", _in_ms(high - low))


def _shown_number(quantile: Quantile) -> float | None:
    """A percentile's value, or the bound that is shown in its place."""
    return quantile.low if quantile.value is None else quantile.value


def lag_effect(stage: StageData) -> Effect | None:
    """What a late event loop does to latencies whose stamps were taken in user space: to the number that is off most.

    The timer that wakes the loop is late by itself (`timer_slack_ns`); bytes that arrive do not wait for that. None
    where too few lags were taken for a p90.
    """
    facts = stage.facts
    if facts is None or not facts.loop_lags_ns or ticks_of(facts) < floor_of(90.0):
        return None
    return max((effect for name in ("ttft", "e2e", "itl") for effect in _lags_in(stage, facts, name)), default=None)


def _lags_in(stage: StageData, facts: StageFacts, name: str) -> Iterable[Effect]:
    """Each percentile of a metric that is shown, beside what it would be without the loop's lag.

    Lateness moves the median by its own median; those of a gap's two ends cancel. Farther out, what spreads a shown
    latency is its own spread and that of the lateness, which are independent: their squares add up.
    """
    metric, values = stage.latencies.get(f"{name}_ms"), np.sort(stage.values[name])
    median = metric.percentile("p50") if metric is not None else None
    middle = None if median is None else median.low if median.value is None else median.value
    if metric is None or not middle:
        return
    usual = 0.0 if name == "itl" else _lag_ms(facts, 50.0)
    for p in BOUNDS:
        percentile = metric.percentile(f"p{p:g}")
        shown = percentile.low if percentile.value is None else percentile.value
        if shown is not None:
            # A bound is the value at a lower rank than that of its percentile.
            at = p if percentile.value is not None else 100 * float(np.searchsorted(values, shown * 1e6)) / len(values)
            spread, lag_spread = max(0.0, shown - middle), max(0.0, _lag_ms(facts, at) - _lag_ms(facts, 50.0))
            would_be = max(1e-6, middle - usual) + math.sqrt(max(0.0, spread**2 - lag_spread**2))
            yield Effect(round(shown / would_be - 1, 4), f"{name.upper()} p{p:g}", round(shown - would_be, 4))


def _lag_ms(facts: StageFacts, p: float) -> float:
    """A percentile of the loop's lag beyond what the timer alone explains; between those that are known, in
    proportion."""
    lag_ns = float(np.interp(p, LAG_PERCENTILES, facts.loop_lags_ns))
    return max(0.0, lag_ns - facts.timer_slack_ns) / 1e6


def pause_effect(pause_ms: float | None, measured: Mapping[str, Metric]) -> Effect | None:
    """What one pause of ours does to the slowest gap, or to the slowest answer. Only with user stamps."""
    for metric, title in (("itl_ms", "slowest ITL"), ("e2e_ms", "slowest E2E")):
        slowest = measured[metric].max if metric in measured else None
        if pause_ms and slowest:
            share = pause_ms / max(slowest - pause_ms, pause_ms)
            return Effect(round(share, 4), title, pause_ms)
    return None


def ticks_of(facts: StageFacts) -> int:
    """How often the event loop's lag was measured."""
    return max(0, facts.end_ns - facts.start_ns) // TICK_NS


def achieved_share_at_best(records: Sequence[Record]) -> float | None:
    """As `metrics.achieved_share`, but without the one request that lowers it most: if only the last request was late,
    or the first was early, the load did not fall behind. None below three requests."""
    sent = sorted((r.intended_ns, r.dispatched_ns) for r in records if r.dispatched_ns is not None)
    if len(sent) < 3:
        return None
    moments = sorted(dispatched for _, dispatched in sent)
    latest, earliest = max(sent, key=lambda pair: pair[1]), min(sent, key=lambda pair: pair[1])
    shares = [_share_of(sent, moments[0], moments[-1])]
    shares.append(_share_of([pair for pair in sent if pair is not latest], moments[0], moments[-2]))
    shares.append(_share_of([pair for pair in sent if pair is not earliest], moments[1], moments[-1]))
    return max((share for share in shares if share is not None), default=None)


def _share_of(sent: Sequence[tuple[int, int]], first_ns: int, last_ns: int) -> float | None:
    return (sent[-1][0] - sent[0][0]) / (last_ns - first_ns) if last_ns > first_ns else None


def _in_ms(ns: float) -> float:
    return round(ns / 1e6, 4)
