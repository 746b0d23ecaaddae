"""The evidence for a verdict: the measurements of ourselves and of the machine, and the results of the stage. Pure."""

import math
from collections.abc import Sequence
from typing import Any, Final

import msgspec
import numpy as np
from msgspec import Struct

from loadgen.analysis import metric_flags, metrics, stage_steady
from loadgen.analysis.lag_percentiles import lag_p99
from loadgen.analysis.late_stamps import lag_effect, ticks_of
from loadgen.analysis.metrics import Window
from loadgen.analysis.own_effects import (
    achieved_share_at_best,
    metrics_spared_by,
    pause_effect,
    shared_reads_effect,
    slip_effect,
)
from loadgen.analysis.stage import StageData
from loadgen.analysis.summary import Effect, Self, in_ms, rounded, total
from loadgen.record import MachineFacts, StageFacts
from loadgen.stats.quantile import estimate, floor_of
from loadgen.store.calibration import beyond

TELLING_NS: Final = 200_000_000
"""In a shorter stage, such as one that was stopped before its first request, the share of CPU means nothing."""

MIN_SAMPLES: Final = 100
"""How many samples of the requests in flight their mean needs."""

TITLED: Final = frozenset({"ttft", "itl", "tpot", "e2e"})
"""The latencies whose titles are abbreviations."""

TELLING_WINDOW_S: Final = 2.0
"""A shorter window may have only one request of a user in it."""


class InFlight(Struct, frozen=True):
    """The mean number of requests in flight at the sampler's moments: as it sampled them, and by the records."""

    sampled: float
    recorded: float
    error: float
    """The standard error of their difference, as a share of the sampled number. Samples that differ from the records by
    one could, by chance, have differed in the other direction."""


class Evidence(Self, frozen=True, kw_only=True):
    """The evidence for a verdict: the measurements of ourselves, and the results of the stage. None is not known, and
    not judged."""

    stamp_source: str
    ok: int
    """How many requests were answered."""
    complete: bool = True
    lag_effect: Effect | None = None
    """The number that is most off because the event loop was late. Only with user stamps."""
    pause_effect: Effect | None = None
    """The number that one pause of the garbage collector may have changed. Only with user stamps."""
    achieved_at_best: float | None = None
    """The achieved share without the one request whose lateness counts most against it, and without waits for the
    in-flight limit."""
    in_flight: InFlight | None = None
    """The requests in flight as sampled, and by the records at the same moments."""
    machine: MachineFacts | None = None
    shed: int = 0
    requests: int = 0
    """How many requests have a record, sent or not."""
    planned: int = 0
    window_s: float | None = None
    unsteady: str | None = None
    """In what way the series of TTFTs did not settle."""
    server_ended: str | None = None
    """How the server ended by itself."""
    lost_workers: tuple[str, ...] = ()
    """How each lost worker was lost."""
    workers: int = 0
    """How many worker processes there were; 0 if one process did all."""
    shared_reads_effect: Effect | None = None
    """The number that shared reads may make most wrong. by_ms is below 0 if it is too low."""
    longer_by_own_cpu: float | None = None
    """By what share, at most, loadgen made the server take longer on their common cores; None if it is not known."""
    clock_step_max_ms: float | None = None
    """The largest step of the wall clock; None if it is not known."""
    over_range_metrics: tuple[str, ...] = ()
    """The latencies of which a value is over range, by their titles."""
    beyond: str | None = None
    """By how much the load was above that for which this machine was calibrated."""
    held_back: str | None = None
    """How tokens were held back on their way."""


def evidence_of(stage: StageData) -> Evidence:
    """The evidence for the verdict on a stage, from its records and facts."""
    window = stage.steady_window
    recorded = metrics.in_flight_recorded(stage.together, window) if window else None
    sources = {record.stamp_source for record in stage.measured if record.stamps_ns or record.outcome == "ok"}
    in_flight = _in_flight(stage, window)
    first_metric = "TTFT" if any(record.stamps_ns for record in stage.ok) else "E2E"
    evidence = Evidence(
        stamp_source="kernel" if sources == {"kernel"} else "user",
        ok=len(stage.ok),
        complete=stage.is_complete,
        slip_effect=slip_effect(stage),
        achieved_at_best=achieved_share_at_best(stage.together),
        shed=sum(record.outcome == "shed" for record in stage.measured),
        requests=len(stage.measured),
        planned=stage.planned.planned or 0,
        in_flight_sampled=None if in_flight is None else rounded(in_flight.sampled),
        in_flight=in_flight,
        in_flight_recorded=rounded(recorded),
        shared_reads_share=rounded(metrics.shared_share(stage.ok)),
        shared_reads_effect=shared_reads_effect(stage),
        achieved_share=None if stage.latency_origin == "sent" else rounded(metrics.achieved_share(stage.together)),
        users_share=rounded(_users_share(stage, window, recorded)),
        over_range=sum(histogram.over_range for histogram in stage.histograms.values()),
        over_range_metrics=tuple(
            name.upper() if name in TITLED else name.replace("_", " ")
            for name, histogram in stage.histograms.items()
            if histogram.over_range
        ),
        window_s=window.length_s if window else None,
        unsteady=stage_steady.unsteady_words(stage.steadiness, first_metric),
        server_ended=stage.planned.server_ended,
        beyond=_beyond(stage),
        held_back=None if stage.flags.held_back is None else metric_flags.held_back_words(stage.flags.held_back),
        **_slips(stage),
    )
    return evidence if stage.facts is None else _with_facts(evidence, stage, stage.facts)


def _slips(stage: StageData) -> dict[str, Any]:
    """The percentiles of the dispatch slip, with the same floors and intervals as any percentile."""
    late = metrics.slips(stage.measured)
    p50, p90, p99 = estimate(late, (50.0, 90.0, 99.0))
    is_known = p99.low is not None and p99.high is not None
    return {
        "dispatch_slip_p50_ms": in_ms(p50.value),
        "dispatch_slip_p90_ms": in_ms(p90.value),
        "dispatch_slip_p99_ms": in_ms(p99.value),
        "dispatch_slip_p99_ci_ms": (in_ms(p99.low), in_ms(p99.high)) if is_known else None,
        "dispatch_slip_p99_at_least_ms": None if is_known else in_ms(p99.low),
        "dispatch_slip_max_ms": in_ms(int(late[-1])) if len(late) else None,
    }


def _with_facts(evidence: Evidence, stage: StageData, facts: StageFacts) -> Evidence:
    """The evidence with the facts that loadgen measured of itself and of the machine during the stage."""
    is_telling = facts.end_ns - facts.start_ns >= TELLING_NS
    is_user, reads = evidence.stamp_source == "user", facts.stamped_reads
    return msgspec.structs.replace(
        evidence,
        loop_lag_max_ms=in_ms(facts.loop_lag_max_ns),
        lag_effect=lag_effect(stage) if is_user else None,
        stamp_lag_p50_ms=in_ms(facts.stamp_lag_p50_ns) if facts.stamped_reads >= floor_of(50.0) else None,
        stamp_lag_max_ms=in_ms(facts.stamp_lag_max_ns),
        cpu_share=round(facts.cpu_share, 4) if is_telling else None,
        gc_pause_max_ms=in_ms(facts.gc_pause_max_ns),
        pause_effect=_pause_effect(stage, facts) if is_user else None,
        server_cpu_share=total(server.cpu_share for server in facts.servers),
        clock_steps=facts.clock_steps,
        clock_step_max_ms=in_ms(facts.clock_step_max_ns),
        lost_workers=_lost(facts),
        workers=len(facts.workers),
        longer_by_own_cpu=_longer_by_own_cpu(facts) if is_telling else None,
        machine=_machine_of(stage, facts) if is_telling else None,
        **_lag("loop_lag", facts.loop_lag_p99_ns, facts.loop_lags_ns, facts.loop_lag_max_ns, ticks_of(facts), facts),
        **_lag("stamp_lag", facts.stamp_lag_p99_ns, facts.stamp_lags_ns, facts.stamp_lag_max_ns, reads, facts),
    )


def _pause_effect(stage: StageData, facts: StageFacts) -> Effect | None:
    return pause_effect(in_ms(facts.gc_pause_max_ns), stage.latencies, metrics_spared_by(stage, facts.gc_pause_end_ns))


def _lag(
    name: str, p99_ns: int | None, lags_ns: Sequence[int], longest_ns: int | None, count: int, facts: StageFacts
) -> dict[str, Any]:
    """The p99 of a lag, with the same floor and interval as any percentile. Older runs tell too little for an
    interval."""
    if not lags_ns:
        return {f"{name}_p99_ms": in_ms(p99_ns) if count >= floor_of(99.0) else None}
    p99 = lag_p99(lags_ns, longest_ns or 0, count, [length_ns for _, length_ns in facts.loop_stalls_ns])
    if p99.low is None or p99.high is None:
        return {f"{name}_p99_ms": None, f"{name}_p99_at_least_ms": in_ms(p99.low)}
    return {f"{name}_p99_ms": in_ms(p99_ns), f"{name}_p99_ci_ms": (in_ms(p99.low), in_ms(p99.high))}


def _machine_of(stage: StageData, facts: StageFacts) -> MachineFacts | None:
    """The facts of the machine, with the slow-down that is the better estimate for this server. The threads of
    llama.cpp share their work out in small parts; its answers have `timings`, which are its own."""
    machine = facts.machine
    is_llamacpp = stage.planned.target == "llamacpp" or any(record.timings is not None for record in stage.ok)
    if machine is None or machine.shared_slowdown is None or not is_llamacpp:
        return machine
    return msgspec.structs.replace(machine, slowdown=machine.shared_slowdown, slowdown_source="shared_waits")


def _longer_by_own_cpu(facts: StageFacts) -> float | None:
    """By what share, at most, the server took longer because we used its cores: it cannot have waited for us for longer
    than it waited, or than we ran."""
    waited = None if facts.machine is None else facts.machine.server_wait_share
    if waited is None:
        return None
    counts = [count for _, count in facts.in_flight_samples]
    active = sum(map(bool, counts)) / len(counts) if any(counts) else 1.0
    lost = min(waited, facts.cpu_share, 0.99 * active)
    return lost / (active - lost)


def _users_share(stage: StageData, window: Window | None, recorded: float | None) -> float | None:
    """The share of a closed loop's users that were being answered, on average; None if the window is too short."""
    if window is None or recorded is None or stage.users is None or window.length_s < TELLING_WINDOW_S:
        return None
    return recorded / stage.users


def _lost(facts: StageFacts) -> tuple[str, ...]:
    """How each lost worker was lost, in words."""
    workers = facts.workers
    numbered = enumerate(workers, start=1)
    return tuple(f"process {at} of {len(workers)}: {worker.lost}" for at, worker in numbered if worker.lost is not None)


def _beyond(stage: StageData) -> str | None:
    """By how much the load was above that for which this machine was calibrated, in words."""
    streams = max((count for _, count in stage.facts.in_flight_samples), default=None) if stage.facts else None
    return beyond(stage.budget, metrics.peak_events_per_s(stage.together), streams, stage.workers)


def _in_flight(stage: StageData, window: Window | None) -> InFlight | None:
    """None if the window has fewer than a hundred samples."""
    if stage.facts is None or window is None:
        return None
    inside = [sample for sample in stage.facts.in_flight_samples if window.holds(sample[0])]
    if len(inside) < MIN_SAMPLES:
        return None
    moments, counts = np.array(inside, dtype=np.int64).T
    begins, ends = (
        np.array(
            sorted(
                (record.dispatched_ns, max(record.end_ns, record.last_byte_ns or 0))
                for record in stage.together
                if record.dispatched_ns is not None and record.end_ns is not None
            ),
            dtype=np.int64,
        )
        .reshape(-1, 2)
        .T
    )
    by_records = np.searchsorted(begins, moments, side="right") - np.searchsorted(np.sort(ends), moments)
    differing = float(np.abs(counts - by_records).sum())
    sampled = float(counts.mean())
    error = math.sqrt(differing) / float(counts.sum()) if sampled else 0.0
    return InFlight(sampled, float(by_records.mean()), error)
