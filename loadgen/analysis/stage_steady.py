"""Whether a stage's latencies settled, and from when on. Pure; the test itself is in `loadgen.stats.steady`."""

from collections.abc import Sequence
from typing import Final

import msgspec
import numpy as np

from loadgen.analysis import metrics
from loadgen.analysis.metrics import Ns, Window
from loadgen.analysis.summary import Steadiness, rounded
from loadgen.plan.plan import StageLoad
from loadgen.record import LatencyOrigin, Record
from loadgen.stats.steady import warm_until

CHANGING: Final = ("ramp", "trace")
"""Loads that change on purpose during a stage."""


def steadiness_of(
    records: Sequence[Record], load: StageLoad, window: Window | None
) -> tuple[Steadiness | None, Window | None]:
    """Whether the latencies of a stage settled inside its window, and the part of the window after that.

    records: the measured requests of all models that share the load. The test takes the TTFTs (the E2Es if answers are
    not streamed) of the ok requests that were dispatched inside the window, in the order of dispatch. Without a window,
    or if the load changes on purpose, it returns None and the window unchanged.
    """
    if window is None or load.mode in CHANGING:
        return None, window
    dispatched, latencies = _series(records, load.latency_origin, window)
    steady = warm_until(latencies, dispatched)
    if steady.steady is not False and steady.truncated:
        window = msgspec.structs.replace(window, start_ns=int(np.sort(dispatched)[steady.truncated]))
    steadiness = Steadiness(
        steady=steady.steady, why=steady.why, warmed_after=steady.truncated, growth=rounded(steady.growth)
    )
    return steadiness, window


def _series(records: Sequence[Record], origin: LatencyOrigin, window: Window) -> tuple[Ns, Ns]:
    inside = [
        record
        for record in records
        if record.outcome == "ok" and record.dispatched_ns is not None and window.holds(record.dispatched_ns)
    ]
    starts = [metrics.start_of(record, origin=origin) for record in inside]
    ends = [record.stamps_ns[0] if record.stamps_ns else record.end_ns for record in inside]
    rows = [
        (record.dispatched_ns, end - start)
        for record, start, end in zip(inside, starts, ends, strict=True)
        if start is not None and end is not None
    ]
    table: Ns = np.array(rows, dtype=np.int64).reshape(-1, 2)
    return table[:, 0], table[:, 1]


def unsteady_words(steadiness: Steadiness | None, metric: str) -> str | None:
    """In what way a stage did not settle, in words; None if it did, or if that cannot be told. metric: the title of the
    latency that was tested."""
    if steadiness is None or steadiness.steady is not False:
        return None
    if steadiness.growth is None:
        return f"{metric} had not settled by the middle of the stage, and is off, by how much is not known"
    way = "grew" if steadiness.growth > 0 else "fell"
    by = f"by {abs(steadiness.growth):.0%} from the first third to the last"
    return f"{metric} {way} all the time, {by}, so it depends on how long the stage was"
