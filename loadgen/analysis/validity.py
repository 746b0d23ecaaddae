"""Is a stage to be believed? Facts in, a verdict out, with reasons in words. Knows no files and no terminal.

The lines are those of `docs/validity.md`: crossing one makes a stage `degraded`, crossing it grossly `invalid`.
"""

import math
from collections.abc import Sequence
from typing import Final, Literal

import msgspec
from msgspec import Struct

from loadgen.analysis import metrics
from loadgen.analysis.metrics import Ns, Window
from loadgen.analysis.stage import StageData, histograms
from loadgen.analysis.summary import Metric, Reason, Self, ServerSummary, Validity, in_ms, rounded
from loadgen.record import ServerFacts, StageFacts
from loadgen.store.calibration import beyond

Verdict = Literal["valid", "degraded", "invalid"]

SLIP_FLOOR_MS: Final = 1.0
SLIP_SHARE_OF_TTFT: Final = 0.01
LOOP_LAG_MS: Final = 5.0
"""Where stamps are taken in user space, the event loop's lag is in every one of them."""
LATE_READS_MS: Final = 20.0
LATE_READS_INVALID_MS: Final = 100.0
"""Kernel stamps are true however late we read; but a reader who is so late sends late, and lets tokens pile up."""
OWN_CPU: Final = 0.5
OWN_CPU_INVALID: Final = 0.9
GC_PAUSE_MS: Final = 1.0
ACHIEVED: Final = 0.99
ACHIEVED_INVALID: Final = 0.9
USERS: Final = 0.95
USERS_INVALID: Final = 0.8
LITTLE: Final = 0.02
LITTLE_INVALID: Final = 0.1
SHARED: Final = 0.1
GROSS: Final = 10.0
"""A lateness of so many times its line is not a blemish but the result."""


class Evidence(Struct, frozen=True, kw_only=True):
    """What a verdict rests on; None is not known, and not judged. Times in ms; shares of 1, CPU of one core.

    whole: answers came whole, and the latency that a slip is held against is the E2E. achieved_share: of the asked rate
    (open loop). users_share: of the asked users, how many were being answered (closed loop without think time).
    unsteady: how the series of TTFTs never settled. server_ended: how the server ended of itself.
    lost_workers: what became of each receiver process that died.
    beyond: by how much the load was above what this machine was calibrated for.
    """

    stamp_source: str
    ok: int
    complete: bool = True
    ttft_p50_ms: float | None = None
    e2e_p50_ms: float | None = None
    whole: bool = False
    dispatch_slip_p99_ms: float | None = None
    dispatch_slip_p90_ms: float | None = None
    loop_lag_p99_ms: float | None = None
    stamp_lag_p99_ms: float | None = None
    cpu_share: float | None = None
    gc_pause_max_ms: float | None = None
    shed: int = 0
    achieved_share: float | None = None
    users_share: float | None = None
    in_flight_sampled: float | None = None
    in_flight_recorded: float | None = None
    shared_share: float | None = None
    over_range: int = 0
    clock_steps: int = 0
    window_s: float | None = None
    unsteady: str | None = None
    server_ended: str | None = None
    lost_workers: tuple[str, ...] = ()
    beyond: str | None = None


class Judgment(Struct, frozen=True):
    """A verdict and what it rests on."""

    verdict: Verdict
    reasons: tuple[Reason, ...]


def judge(evidence: Evidence) -> Judgment:
    """The verdict on a stage: invalid when any reason is fatal, degraded when there is any other."""
    reasons = (*_of_ourselves(evidence), *_of_the_load(evidence), *_of_the_samples(evidence))
    if any(reason.fatal for reason in reasons):
        return Judgment("invalid", reasons)
    return Judgment("degraded" if reasons else "valid", reasons)


def _of_ourselves(seen: Evidence) -> list[Reason]:
    """Whether the harness was the bottleneck."""
    found: list[Reason] = []
    slip = seen.dispatch_slip_p99_ms
    if slip is not None:
        name, latency = ("E2E", seen.e2e_p50_ms) if seen.whole else ("TTFT", seen.ttft_p50_ms)
        limit = max(SLIP_FLOOR_MS, SLIP_SHARE_OF_TTFT * (latency or 0.0))
        if slip > limit:
            advice = "lower the load, or give the harness a core of its own"
            said = f"≤ {limit:.1f} ms (1 % of the median {name}, at least 1 ms)"
            # One request that the system held up is a blemish; when one in ten is grossly late, the load was another.
            gross = (seen.dispatch_slip_p90_ms or 0.0) > GROSS * limit
            found.append(Reason("dispatch_slip", f"requests left {slip:.1f} ms late (p99)", said, advice, gross))
    found += _late(seen)
    if seen.cpu_share is not None and seen.cpu_share > OWN_CPU:
        advice = "lower the load, or run the harness on another machine"
        used = f"the harness used {seen.cpu_share:.0%} of a core"
        found.append(Reason("own_cpu", used, f"≤ {OWN_CPU:.0%}", advice, seen.cpu_share > OWN_CPU_INVALID))
    if seen.gc_pause_max_ms is not None and seen.gc_pause_max_ms > GC_PAUSE_MS:
        advice = "run fewer requests a stage"
        pause = f"a garbage collection took {seen.gc_pause_max_ms:.1f} ms"
        found.append(Reason("gc_pause", pause, f"≤ {GC_PAUSE_MS:g} ms", advice))
    if seen.clock_steps:
        advice = "run again; keep the clock from being set while a run is on"
        found.append(Reason("clock_step", f"the wall clock was stepped {seen.clock_steps} times", "none", advice, True))
    return found


def _late(seen: Evidence) -> list[Reason]:
    """Whether we looked too late at what had arrived."""
    found: list[Reason] = []
    advice = "lower the load, or give the harness a core of its own"
    lag, limit, gross = seen.loop_lag_p99_ms, LATE_READS_MS, LATE_READS_INVALID_MS
    if seen.stamp_source == "user":
        advice = "stamps are taken in user space here: lower the load, or measure from Linux"
        limit, gross = LOOP_LAG_MS, GROSS * LOOP_LAG_MS
    if lag is not None and lag > limit:
        found.append(
            Reason("loop_lag", f"the event loop was {lag:.1f} ms late (p99)", f"≤ {limit:g} ms", advice, lag > gross)
        )
    lag = seen.stamp_lag_p99_ms
    if lag is not None and lag > LATE_READS_MS:
        told = f"bytes were read {lag:.1f} ms after they had arrived (p99)"
        found.append(Reason("stamp_lag", told, f"≤ {LATE_READS_MS:g} ms", advice, lag > LATE_READS_INVALID_MS))
    return found


def _of_the_load(seen: Evidence) -> list[Reason]:
    """Whether the load that was asked for was there."""
    found: list[Reason] = []
    if seen.shed:
        advice = "raise max_in_flight, or take the shed requests as the answer: the server cannot keep up"
        found.append(Reason("shed", f"{seen.shed} requests were shed at the in-flight limit", "none", advice))
    if seen.achieved_share is not None and seen.achieved_share < ACHIEVED:
        advice = "lower the rate, or give the harness a core of its own"
        got = f"{seen.achieved_share:.1%} of the asked rate"
        found.append(Reason("achieved_rate", got, f"≥ {ACHIEVED:.0%}", advice, seen.achieved_share < ACHIEVED_INVALID))
    if seen.users_share is not None and seen.users_share < USERS:
        advice = "answers are so short that our own turn between them counts: ask for more tokens, or use --workers"
        got = f"{seen.users_share:.1%} of the asked users were being answered"
        found.append(Reason("achieved_users", got, f"≥ {USERS:.0%}", advice, seen.users_share < USERS_INVALID))
    if seen.server_ended is not None:
        advice = "see the server's own last words; what it had answered until then is in the records"
        found.append(Reason("server_died", seen.server_ended, "a server that lives", advice, True))
    for lost in seen.lost_workers:
        advice = "its requests count as cancelled, and the load was smaller than asked: run it again"
        found.append(Reason("worker_lost", lost, "none", advice, True))
    if seen.beyond is not None:
        advice = "lower the load, use --workers, or see with `loadgen calibrate` what this machine holds"
        found.append(Reason("beyond_calibration", seen.beyond, "what was calibrated", advice))
    sampled, recorded = seen.in_flight_sampled, seen.in_flight_recorded
    if sampled and recorded is not None:
        off = abs(sampled - recorded) / sampled
        if off > LITTLE:
            told = f"{sampled:.2f} in flight when sampled, {recorded:.2f} by the records"
            advice = "the records do not explain the load: run longer, or report it as a fault of the harness"
            found.append(Reason("littles_law", told, f"within {LITTLE:.0%}", advice, off > LITTLE_INVALID))
    if seen.window_s is None and seen.ok:
        advice = "ask for more requests a level: at least three times the concurrency"
        found.append(Reason("no_window", "the asked-for load was never in force", "a steady window", advice))
    return found


def _of_the_samples(seen: Evidence) -> list[Reason]:
    """Whether the samples say what they seem to say."""
    found: list[Reason] = []
    if not seen.ok:
        advice = "see the outcomes, and the details in requests.jsonl"
        found.append(Reason("nothing_answered", "no request was answered", "at least one", advice, True))
    if not seen.complete:
        found.append(Reason("incomplete", "the stage was cut short", "all planned requests", "run it again"))
    if seen.unsteady is not None:
        advice = "run longer or lower the load: what is shown depends on how long was measured"
        found.append(Reason("never_steady", seen.unsteady, "a series of TTFTs that settles", advice))
    if seen.shared_share is not None and seen.shared_share > SHARED:
        advice = "read ITL as gaps between reads; TTFT and throughput are not touched"
        told = f"{seen.shared_share:.0%} of the tokens shared a read with the one before"
        found.append(Reason("shared_reads", told, f"≤ {SHARED:.0%}", advice))
    if seen.over_range:
        advice = "shorten the request's deadline below an hour"
        found.append(Reason("over_range", f"{seen.over_range} values below 0 or beyond 1 h", "none", advice, True))
    return found


# What a stage's verdict rests on, gathered from its records and facts. Pure; the lines are above.

TELLING_NS: Final = 200_000_000
"""A stage that was shorter, such as one that was stopped before its first request, says nothing of a share of CPU."""

TELLING_WINDOW_S: Final = 2.0
"""In a shorter window, one user's turn may be all that there is."""


def validity(
    part: StageData,
    window: Window | None,
    measured: dict[str, Metric],
    *,
    incomplete: bool,
    unsteady: str | None = None,
) -> Validity:
    """Whether a stage is to be believed. unsteady: how its latencies never settled, if so."""
    facts, records = part.facts, part.measured
    sources = {record.stamp_source for record in records if record.stamps_ns or record.outcome == "ok"}
    source = "kernel" if sources == {"kernel"} else "user"
    own = _self(part, window)
    judgment = judge(
        Evidence(
            stamp_source=source,
            ok=len(part.ok),
            complete=not incomplete,
            ttft_p50_ms=measured["ttft_ms"].percentile("p50").value,
            e2e_p50_ms=measured["e2e_ms"].percentile("p50").value,
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
    return Validity(verdict=judgment.verdict, reasons=judgment.reasons, stamp_source=source, self=own)


def _self(part: StageData, window: Window | None) -> Self:
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
        achieved_share=None if part.latency_origin == "sent" else rounded(metrics.achieved_share(part.together)),
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
        server_cpu_share=_cpu_share(facts.servers),
        clock_steps=facts.clock_steps,
    )


def _users_share(part: StageData, window: Window | None, recorded: float | None) -> float | None:
    """Of the users of a closed loop, how many were being answered on average; None in a window that is too short."""
    if window is None or recorded is None or part.users is None or window.length_s < TELLING_WINDOW_S:
        return None
    return recorded / part.users


def _lost(facts: StageFacts | None) -> tuple[str, ...]:
    """What became of each receiver process that died."""
    workers = facts.workers if facts else ()
    numbered = enumerate(workers, start=1)
    return tuple(f"process {at} of {len(workers)}: {worker.lost}" for at, worker in numbered if worker.lost is not None)


def _beyond(part: StageData) -> str | None:
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


def processes(servers: Sequence[ServerFacts]) -> ServerSummary:
    """Memory and CPU of the server's processes together; None where nothing could be seen."""
    peaks = [server.rss_peak_bytes for server in servers if server.rss_peak_bytes is not None]
    starts = [server.rss_start_bytes for server in servers if server.rss_start_bytes is not None]
    return ServerSummary(
        rss_start_mib=rounded(sum(starts) / 2**20) if starts else None,
        rss_peak_mib=rounded(sum(peaks) / 2**20) if peaks else None,
        cpu_share=_cpu_share(servers),
    )


def _cpu_share(servers: Sequence[ServerFacts]) -> float | None:
    shares = [server.cpu_share for server in servers if server.cpu_share is not None]
    return rounded(sum(shares)) if shares else None
