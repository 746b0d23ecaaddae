"""What several processes saw of one stage, as one. Pure: knows no process and no clock."""

from collections.abc import Iterable, Sequence

import msgspec
import numpy as np

from loadgen.record import StageFacts, WorkerFacts
from loadgen.telemetry.observer import MOST_SAMPLES, TICK_NS


def merge_facts(conductor: StageFacts, played: Sequence[StageFacts], workers: Sequence[WorkerFacts] = ()) -> StageFacts:
    """The facts of a stage that several processes played.

    conductor: of the process that started them; it played nothing, and it alone watched the servers. played: of each
    worker that lived to say so. workers: all that took part.

    From the earliest start to the latest end. Each lag is the worst worker's own figure, not that of all their samples
    together: one process that is late spoils its part of the stage, however punctual the others are. cpu_share is the
    highest of any one process, for the same reason. Reads add up; requests in flight add up at each moment of a common
    grid. The stage is complete when all of its parts are, and no worker was lost.
    """
    # The conductor's own lags are left out: it plays nothing, and being late there delays no request.
    everyone = (conductor, *played)
    # Not added up like the counts: a percentile of all samples would hide one bad process among many good ones.
    lags = {name: _worst(getattr(facts, name) for facts in played) for name in _LAGS}
    return msgspec.structs.replace(
        conductor,
        start_ns=min((facts.start_ns for facts in played), default=conductor.start_ns),
        end_ns=max((facts.end_ns for facts in played), default=conductor.end_ns),
        complete=bool(played) and all(f.complete for f in everyone) and not any(worker.lost for worker in workers),
        cpu_share=max(facts.cpu_share for facts in everyone),
        stamped_reads=sum(facts.stamped_reads for facts in played),
        gc_pause_max_ns=max((facts.gc_pause_max_ns for facts in played), default=0),
        clock_steps=max(facts.clock_steps for facts in everyone),
        in_flight_samples=in_flight_of(played),
        loop_lags_ns=tuple(map(max, zip(*(facts.loop_lags_ns for facts in played if facts.loop_lags_ns), strict=True))),
        workers=tuple(workers),
        **lags,
    )


_LAGS = (
    *("loop_lag_p50_ns", "loop_lag_p99_ns", "loop_lag_max_ns"),
    *("stamp_lag_p50_ns", "stamp_lag_p99_ns", "stamp_lag_max_ns"),
)


def _worst(lags_ns: Iterable[int | None]) -> int | None:
    return max((lag for lag in lags_ns if lag is not None), default=None)


def in_flight_of(played: Sequence[StageFacts]) -> tuple[tuple[int, int], ...]:
    """Requests in flight in all processes together, on one evenly spaced grid of at most MOST_SAMPLES moments.

    Each process counts with the last value that it sampled by then; with none before its first, and none after its end,
    which it may reach while others go on.
    """
    sampled = [facts for facts in played if facts.in_flight_samples]
    if not sampled:
        return ()
    first = min(facts.in_flight_samples[0][0] for facts in sampled)
    last = max(facts.in_flight_samples[-1][0] for facts in sampled)
    # Never finer than the samples themselves, and never more moments than one process would have kept.
    step = max(TICK_NS, -(-(last - first + 1) // MOST_SAMPLES))
    grid = np.arange(first, last + 1, step, dtype=np.int64)
    total = np.zeros(len(grid), dtype=np.int64)
    for facts in sampled:
        moments, counts = np.array(facts.in_flight_samples, dtype=np.int64).T
        # -1 stands for a moment before the first sample; `np.where` evaluates it all the same, and drops it.
        at = np.searchsorted(moments, grid, side="right") - 1
        total += np.where((at >= 0) & (grid <= facts.end_ns), counts[at], 0)
    return tuple(zip(grid.tolist(), total.tolist(), strict=True))
