"""Whether loadgen measured a window of a long stage well: by the rules of `validity.py`, from the window's counts and
histograms. Pure.

Only the rules about ourselves are applied. The others are about a whole stage, or about what the server did, which is
what the windows are there to show.
"""

from collections.abc import Iterable, Mapping
from typing import Final

from msgspec import Struct

from loadgen.analysis.evidence import Evidence
from loadgen.analysis.own_effects import SHOWN, THROUGHPUT, pause_effect
from loadgen.analysis.reason_codes import Code
from loadgen.analysis.summary import Effect, Metric, in_ms
from loadgen.analysis.validity import judge
from loadgen.record import LAG_PERCENTILES, ProcessFacts, StampSource
from loadgen.stats.histogram import Histogram
from loadgen.stats.quantile import floor_of

OWN_CODES: Final[frozenset[Code]] = frozenset(
    {"dispatch_slip", "loop_lag", "stamp_lag", "own_cpu", "gc_pause", "clock_step", "over_range"}
)
"""The reasons that are about loadgen itself."""


class ClosedLoad(Struct, frozen=True):
    """How late the requests of a closed loop were sent in a window, of all models together."""

    users: int
    length_ns: int
    sent: int
    slip_ns: int
    """How late they were sent through our own fault, added up."""


class MeasuredWindow(Struct, frozen=True, kw_only=True):
    """What is known of one model in one window."""

    stamp_source: StampSource
    histograms: Mapping[str, Histogram]
    """Of ttft, itl and e2e; in an open loop also of punctual_ttft and punctual_e2e, without our lateness in sending."""
    slowest_ns: dict[str, int]
    """The exact largest value of each metric."""
    over_range: int
    closed_load: ClosedLoad | None
    """None in an open loop."""
    facts: ProcessFacts | None
    """None if no process was measured in it."""


def window_reasons(window: MeasuredWindow) -> tuple[Code, ...]:
    """The codes of the reasons why a window is not valid; none if it is."""
    judgment = judge(_evidence_of(window))
    return tuple(dict.fromkeys(reason.code for reason in judgment.reasons if reason.code in OWN_CODES))


def _evidence_of(window: MeasuredWindow) -> Evidence:
    facts, is_user = window.facts, window.stamp_source == "user"
    slip = _lost_rate(window.closed_load) if window.closed_load else max(_late_latencies(window), default=None)
    if facts is None:
        return Evidence(stamp_source=window.stamp_source, ok=0, slip_effect=slip, over_range=window.over_range)
    pause_ms = in_ms(facts.collector_ns)
    slowest = {f"{metric}_ms": Metric(max=in_ms(ns)) for metric, ns in window.slowest_ns.items()}
    return Evidence(
        stamp_source=window.stamp_source,
        ok=0,  # whether anything was answered is no question about ourselves
        slip_effect=slip,
        lag_effect=max(_late_stamps(window, facts), default=None) if is_user else None,
        stamp_lag_p99_ms=in_ms(lag_at(facts.stamp_lags_ns, 99.0, facts.stamped_reads)),
        stamp_lag_max_ms=in_ms(facts.stamp_lags_ns[-1]) if facts.stamp_lags_ns else None,
        cpu_share=facts.cpu_share,
        gc_pause_max_ms=pause_ms,
        pause_effect=pause_effect(pause_ms, slowest) if is_user else None,
        clock_steps=facts.clock_steps,
        clock_step_max_ms=in_ms(facts.clock_step_max_ns),
        over_range=window.over_range,
    )


def lag_at(lags_ns: tuple[int, ...], p: float, count: int) -> int | None:
    """One of LAG_PERCENTILES of so many lags, ns; None if they are too few for it."""
    return lags_ns[LAG_PERCENTILES.index(p)] if lags_ns and count >= floor_of(p) else None


def _lost_rate(load: ClosedLoad) -> Effect | None:
    """As for a stage: the share of the users' time in which they waited for us before they asked."""
    if load.sent < floor_of(50.0):
        return None
    share = load.slip_ns / (load.users * max(1, load.length_ns))
    return Effect(round(share, 4), THROUGHPUT, round(load.slip_ns / load.sent / 1e6, 4))


def _late_latencies(window: MeasuredWindow) -> Iterable[Effect]:
    """As for a stage: by how much each percentile would be lower if every request had been sent on time."""
    for metric in ("ttft", "e2e"):
        shown, punctual = window.histograms.get(metric), window.histograms.get(f"punctual_{metric}")
        for p in SHOWN:
            if shown and punctual and punctual.count and shown.count >= floor_of(p):
                yield from _effect(f"{metric.upper()} p{p:g}", shown.quantile_ns(p), punctual.quantile_ns(p))


def _late_stamps(window: MeasuredWindow, facts: ProcessFacts) -> Iterable[Effect]:
    """By how much each percentile of a latency may be too high because the event loop was late: at most by the same
    percentile of its lag, without what the timer alone explains. A stage is judged more exactly, from its records."""
    for metric in ("ttft", "itl", "e2e"):
        shown = window.histograms.get(metric)
        for p in SHOWN:
            late_ns = lag_at(facts.loop_lags_ns, p, facts.ticks) if p in LAG_PERCENTILES else None
            if shown and late_ns is not None and shown.count >= floor_of(p):
                shown_ns = shown.quantile_ns(p)
                yield from _effect(
                    f"{metric.upper()} p{p:g}", shown_ns, shown_ns - max(0, late_ns - facts.timer_slack_ns)
                )


def _effect(number: str, shown_ns: int, would_be_ns: int) -> Iterable[Effect]:
    if shown_ns > would_be_ns:
        share = shown_ns / max(1, would_be_ns) - 1
        yield Effect(round(share, 4), number, round((shown_ns - would_be_ns) / 1e6, 4))
