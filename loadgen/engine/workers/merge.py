"""Merges the facts that several processes have of one stage. Pure: knows no process and no clock."""

from collections.abc import Iterable, Sequence

import msgspec
import numpy as np

from loadgen.record import StageFacts, WorkerFacts
from loadgen.telemetry.observer import MOST_SAMPLES, TICK_NS


def merge_facts(parent: StageFacts, played: Sequence[StageFacts], workers: Sequence[WorkerFacts] = ()) -> StageFacts:
    """The facts of a stage that several processes played.

    parent: the facts of the parent process, which played nothing, and alone watched the servers. played: those of each
    worker that was not lost. workers: all workers that took part.

    The stage lasts from the earliest start to the latest end. Each lag is that of the worst worker, not that of all
    samples together: a process that is late spoils its part of the stage, however punctual the others are. For the same
    reason, cpu_share is the highest of any one process. Reads add up, and requests in flight add up at each moment of a
    common grid. The stage is complete if all of its parts are, and no worker was lost.
    """
    # Without the parent's own lags: it plays nothing, so its lateness delays no request.
    everyone = (parent, *played)
    # Not added up like the counts: a percentile of all samples would hide one bad process among many good ones.
    lags = {name: _worst(getattr(facts, name) for facts in played) for name in _LAGS}
    return msgspec.structs.replace(
        parent,
        start_ns=min((facts.start_ns for facts in played), default=parent.start_ns),
        end_ns=max((facts.end_ns for facts in played), default=parent.end_ns),
        complete=bool(played) and all(f.complete for f in everyone) and not any(worker.lost for worker in workers),
        cpu_share=max(facts.cpu_share for facts in everyone),
        stamped_reads=sum(facts.stamped_reads for facts in played),
        gc_pause_max_ns=max((facts.gc_pause_max_ns for facts in played), default=0),
        clock_steps=max(facts.clock_steps for facts in everyone),
        clock_step_max_ns=_worst(facts.clock_step_max_ns for facts in everyone),
        in_flight_samples=in_flight_of(played),
        loop_lags_ns=_worst_at_each(facts.loop_lags_ns for facts in played),
        loop_short_lags_ns=_worst_at_each(facts.loop_short_lags_ns for facts in played),
        stamp_lags_ns=_worst_at_each(facts.stamp_lags_ns for facts in played),
        loop_stalls_ns=tuple(sorted(stall for facts in played for stall in facts.loop_stalls_ns)),
        gc_pause_end_ns=max(played, key=lambda facts: facts.gc_pause_max_ns).gc_pause_end_ns if played else None,
        workers=tuple(workers),
        **lags,
    )


_LAGS = (
    *("loop_lag_p50_ns", "loop_lag_p99_ns", "loop_lag_max_ns"),
    *("stamp_lag_p50_ns", "stamp_lag_p99_ns", "stamp_lag_max_ns"),
)


def _worst(lags_ns: Iterable[int | None]) -> int | None:
    return max((lag for lag in lags_ns if lag is not None), default=None)


def _worst_at_each(lags_ns: Iterable[tuple[int, ...]]) -> tuple[int, ...]:
    return tuple(map(max, zip(*(lags for lags in lags_ns if lags), strict=True)))


def in_flight_of(played: Sequence[StageFacts]) -> tuple[tuple[int, int], ...]:
    """Requests in flight in all processes together, on one evenly spaced grid of at most MOST_SAMPLES moments.

    At each moment, each process counts with the last value that it had sampled by then. It counts with none before its
    first sample and after its end, which it may reach earlier than others.
    """
    sampled = [facts for facts in played if facts.in_flight_samples]
    if not sampled:
        return ()
    first = min(facts.in_flight_samples[0][0] for facts in sampled)
    last = max(facts.in_flight_samples[-1][0] for facts in sampled)
    # Not finer than the samples themselves, and with no more moments than one process would have sampled.
    step = max(TICK_NS, -(-(last - first + 1) // MOST_SAMPLES))
    grid = np.arange(first, last + 1, step, dtype=np.int64)
    total = np.zeros(len(grid), dtype=np.int64)
    for facts in sampled:
        moments, counts = np.array(facts.in_flight_samples, dtype=np.int64).T
        # -1 stands for a moment before the first sample. `np.where` drops it, after it has indexed with it.
        at = np.searchsorted(moments, grid, side="right") - 1
        total += np.where((at >= 0) & (grid <= facts.end_ns), counts[at], 0)
    return tuple(zip(grid.tolist(), total.tolist(), strict=True))
