"""Which of the numbers that are shown our own lateness makes wrong, and by how much. Pure.

In a closed loop, latencies count from the send, so a late send lengthens none of them. But it lowers the load, and so
the throughput. In an open loop, latencies count from when a request was due, so a late send lengthens all of them. What
lateness does to stamps that are taken in user space is in `late_stamps`.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Final

import numpy as np

from loadgen.analysis import metrics
from loadgen.analysis.late_stamps import BOUNDS, TICK_NS
from loadgen.analysis.metrics import MISSING, Ns, Window
from loadgen.analysis.stage import StageData
from loadgen.analysis.summary import Effect, Metric
from loadgen.record import Record
from loadgen.stats.quantile import Quantile, estimate, floor_of

SHOWN: Final = (50.0, 90.0, 95.0, 99.0, 99.9)
THROUGHPUT: Final = "throughput"


def slip_effect(stage: StageData) -> Effect | None:
    """The number of a stage that late dispatches make most wrong. None if nothing was dispatched."""
    if stage.latency_origin == "sent":
        return _lost_rate(stage)
    return max(_late_latencies(stage), default=None)


def _lost_rate(stage: StageData) -> Effect | None:
    """How much throughput a closed loop lost: the share of its users' time in the window in which they waited for us
    before they asked. None if there are too few requests for a median, or if no throughput is shown."""
    sent = [record for record in stage.together if record.dispatched_ns is not None]
    window, users = stage.steady_window, stage.planned.load.concurrency
    if len(sent) < floor_of(50.0) or window is None or not users:
        return None
    waits_ns = [_inside(window, (r.dispatched_ns or 0) - metrics.slip_ns(r), r.dispatched_ns or 0) for r in sent]
    share = sum(waits_ns) / (users * max(1, window.end_ns - window.start_ns))
    return Effect(round(share, 4), THROUGHPUT, _in_ms(sum(map(metrics.slip_ns, sent)) / len(sent)))


def _inside(window: Window, start_ns: int, end_ns: int) -> int:
    """How much of the time from start to end is in a window."""
    return max(0, min(end_ns, window.end_ns) - max(start_ns, window.start_ns))


def _late_latencies(stage: StageData) -> Iterable[Effect]:
    """By how much each shown percentile of an open loop differs from what it would be without our lateness."""
    late = np.fromiter(map(metrics.slip_ns, stage.ok), np.int64, len(stage.ok))
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


def pause_effect(pause_ms: float | None, measured: Mapping[str, Metric], spared: Collection[str] = ()) -> Effect | None:
    """What one pause of ours does to the slowest gap, or to the slowest answer. Only with user stamps.

    spared: the metrics of whose slowest value it is known that the pause was not in it.
    """
    for metric, title in (("itl_ms", "slowest ITL"), ("e2e_ms", "slowest E2E")):
        slowest = measured[metric].max if metric in measured else None
        if pause_ms and slowest:
            share = pause_ms / max(slowest - pause_ms, pause_ms)
            return None if metric in spared else Effect(round(share, 4), title, pause_ms)
    return None


def metrics_spared_by(stage: StageData, pause_end_ns: int | None) -> set[str]:
    """The metrics whose slowest value did not end with a pause, which delays all that arrives in it until its end."""
    if pause_end_ns is None:
        return set()
    ends = {
        "itl_ms": (stage.gaps.values, metrics.gap_ends(*metrics.flat_stamps(stage.ok))),
        "e2e_ms": (stage.each["e2e"], np.array([record.end_ns or 0 for record in stage.ok], dtype=np.int64)),
    }
    return {
        name
        for name, (values, moments) in ends.items()
        if len(values) and not 0 <= int(moments[np.argmax(values)]) - pause_end_ns <= TICK_NS
    }


def shared_reads_effect(stage: StageData) -> Effect | None:
    """The percentile of ITL that would change most if the tokens of each read had come evenly spaced since the read
    before. None if no percentile of ITL is shown, or none would change. by_ms is below 0 if the shown one is too low.

    The tokens that came with an answer's first one stay as they are: when the first could have come is not known.
    """
    shown, gaps = stage.latencies["itl_ms"].percentiles, stage.gaps
    known = [float(name.removeprefix("p")) for name, percentile in shown.items() if percentile.value is not None]
    if not known or not len(gaps.values):
        return None
    begins = gaps.values > 0
    lengths = gaps.counts[gaps.counts > 0]
    begins[np.cumsum(lengths) - lengths] = True
    if begins.all():
        return None
    reads = np.flatnonzero(begins)
    counts = np.diff(np.append(reads, len(gaps.values)))
    evenly = np.repeat(np.add.reduceat(gaps.values, reads) / counts, counts)
    pairs = zip(known, np.percentile(gaps.values, known), np.percentile(evenly, known), strict=True)
    effects = [
        Effect(round(abs(is_shown / would_be - 1), 4), f"ITL p{p:g}", _in_ms(is_shown - would_be))
        for p, is_shown, would_be in pairs
        if would_be > 0 and is_shown != would_be
    ]
    return max(effects, default=None)


def achieved_share_at_best(records: Sequence[Record]) -> float | None:
    """As `metrics.achieved_share`, but without the one request that lowers it most: if only the last request was late,
    or the first was early, the load did not fall behind. And without the waits for the in-flight limit, which the plan
    asks for. None below three requests."""
    sent = sorted((r.intended_ns, r.dispatched_ns - r.held_ns) for r in records if r.dispatched_ns is not None)
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
