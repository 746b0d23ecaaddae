"""What a stage's verdict rests on, gathered from its records and facts. Pure; the lines are `measure.validity`'s."""

import math
from collections.abc import Sequence
from typing import Any, Final

import msgspec

from loadgen import metrics
from loadgen.calibration import beyond
from loadgen.measure.observe import ServerFacts, StageFacts
from loadgen.measure.validity import Evidence, judge
from loadgen.metrics import Ns, Window
from loadgen.slices import Slice, histograms
from loadgen.summary import Metric, Self, Validity, in_ms, rounded

TELLING_NS: Final = 200_000_000
"""A stage that was shorter, such as one that was stopped before its first request, says nothing of a share of CPU."""

TELLING_WINDOW_S: Final = 2.0
"""In a shorter window, one user's turn may be all that there is."""


def validity(
    part: Slice, window: Window | None, measured: dict[str, Metric], *, incomplete: bool, unsteady: str | None = None
) -> Validity:
    """Whether a stage is to be believed. unsteady: how its latencies never settled, if so."""
    facts, records = part.facts, part.measured
    sources = {record.stamp_source for record in records if record.stamps_ns or record.outcome == "ok"}
    source = "kernel" if sources == {"kernel"} else "user"
    own = _self(part, window)
    judgement = judge(
        Evidence(
            stamp_source=source,
            ok=len(part.ok),
            complete=not incomplete,
            ttft_p50_ms=measured["ttft_ms"].get("p50"),
            e2e_p50_ms=measured["e2e_ms"].get("p50"),
            whole=bool(part.ok) and not any(record.stamps_ns for record in part.ok),
            dispatch_slip_p99_ms=own.dispatch_slip_p99_ms,
            dispatch_slip_p90_ms=own.dispatch_slip_p90_ms,
            loop_lag_p99_ms=own.loop_lag_p99_ms,
            stamp_lag_p99_ms=own.stamp_lag_p99_ms,
            cpu_share=own.cpu_share,
            gc_pause_max_ms=own.gc_pause_max_ms,
            shed=sum(record.outcome == "shed" for record in records),
            achieved_share=own.achieved_share,
            users_share=own.users_share,
            in_flight_sampled=own.in_flight_sampled,
            in_flight_recorded=own.in_flight_recorded,
            shared_share=own.shared_reads_share,
            over_range=own.over_range,
            clock_steps=facts.clock_steps if facts else 0,
            window_s=window.length_s if window else None,
            unsteady=unsteady,
            server_ended=part.planned.server_ended,
            lost_workers=_lost(facts),
            beyond=_beyond(part),
        )
    )
    return Validity(verdict=judgement.verdict, reasons=judgement.reasons, stamp_source=source, self=own)


def _self(part: Slice, window: Window | None) -> Self:
    """What was measured of ourselves in a stage."""
    facts, late = part.facts, metrics.slips(part.measured)
    recorded = metrics.in_flight_recorded(part.together, window) if window else None
    own = Self(
        dispatch_slip_p99_ms=in_ms(_plain_quantile(late, 99)),
        dispatch_slip_p90_ms=in_ms(_plain_quantile(late, 90)),
        loop_lag_p99_ms=None,
        stamp_lag_p99_ms=None,
        cpu_share=None,
        gc_pause_max_ms=None,
        in_flight_sampled=rounded(_sampled_in_flight(facts, window)),
        in_flight_recorded=rounded(recorded),
        shared_reads_share=rounded(metrics.shared_share(part.ok)),
        achieved_share=None if part.closed else rounded(metrics.achieved_share(part.together)),
        users_share=rounded(_users_share(part, window, recorded)),
        over_range=sum(histogram.over_range for histogram in histograms(part).values()),
    )
    if facts is None:
        return own
    return msgspec.structs.replace(
        own,
        loop_lag_p99_ms=in_ms(facts.loop_lag_p99_ns),
        loop_lag_max_ms=in_ms(facts.loop_lag_max_ns),
        stamp_lag_p50_ms=in_ms(facts.stamp_lag_p50_ns),
        stamp_lag_p99_ms=in_ms(facts.stamp_lag_p99_ns),
        stamp_lag_max_ms=in_ms(facts.stamp_lag_max_ns),
        cpu_share=round(facts.cpu_share, 4) if facts.end_ns - facts.start_ns >= TELLING_NS else None,
        gc_pause_max_ms=in_ms(facts.gc_pause_max_ns),
        server_cpu_share=processes(facts.servers)["cpu_share"],
        clock_steps=facts.clock_steps,
    )


def _users_share(part: Slice, window: Window | None, recorded: float | None) -> float | None:
    """Of the users of a closed loop, how many were being answered on average; None in a window that is too short."""
    if window is None or recorded is None or part.users is None or window.length_s < TELLING_WINDOW_S:
        return None
    return recorded / part.users


def _lost(facts: StageFacts | None) -> tuple[str, ...]:
    """What became of each receiver process that died."""
    workers = facts.workers if facts else ()
    numbered = enumerate(workers, start=1)
    return tuple(f"process {at} of {len(workers)}: {worker.lost}" for at, worker in numbered if worker.lost is not None)


def _beyond(part: Slice) -> str | None:
    """By how much the load was more than this machine was calibrated for."""
    streams = max((count for _, count in part.facts.in_flight_samples), default=None) if part.facts else None
    return beyond(part.budget, metrics.peak_events_per_s(part.together), streams, part.workers)


def _plain_quantile(ordered: Ns, p: float) -> int | None:
    """Of what we measured of ourselves there is no more than the sample: its nearest rank, without an interval."""
    return int(ordered[math.ceil(p * len(ordered) / 100) - 1]) if len(ordered) else None


def _sampled_in_flight(facts: StageFacts | None, window: Window | None) -> float | None:
    """Mean in flight inside the window, from the independent sampler; None below a hundred samples."""
    if facts is None or window is None:
        return None
    inside = [count for moment, count in facts.in_flight_samples if window.holds(moment)]
    return sum(inside) / len(inside) if len(inside) >= 100 else None


def processes(servers: Sequence[ServerFacts]) -> dict[str, Any]:
    """Memory and CPU of the server's processes together; None where nothing could be seen."""
    peaks = [server.rss_peak_bytes for server in servers if server.rss_peak_bytes is not None]
    starts = [server.rss_start_bytes for server in servers if server.rss_start_bytes is not None]
    shares = [server.cpu_share for server in servers if server.cpu_share is not None]
    return {
        "rss_start_mib": rounded(sum(starts) / 2**20) if starts else None,
        "rss_peak_mib": rounded(sum(peaks) / 2**20) if peaks else None,
        "cpu_share": rounded(sum(shares)) if shares else None,
    }
