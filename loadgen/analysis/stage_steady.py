"""Where a stage had warmed up, and whether it ever settled. Pure; the test itself is in `loadgen.stats.steady`."""

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
"""Loads that are not meant to be the same from beginning to end."""


def steadiness_of(
    records: Sequence[Record], load: StageLoad, window: Window | None
) -> tuple[Steadiness | None, Window | None]:
    """Whether the latencies of a stage settled inside its window, and the window from where they had.

    records: the measured requests of all models that share the load. Looked at are the TTFTs (where answers came whole:
    the E2Es) of the ok ones dispatched inside the window, in the order of dispatch. Without a window, and of a load
    that is meant to change, there is nothing to say: None, and the window as it was.
    """
    if window is None or load.mode in CHANGING:
        return None, window
    dispatched, latencies = _series(records, load.latency_origin, window)
    steady = warm_until(latencies, dispatched)
    if steady.steady and steady.truncated:
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


def in_words(steadiness: Steadiness | None) -> str | None:
    """What is wrong with a stage that did not settle; None with one that did, or of which it cannot be told."""
    if steadiness is None or steadiness.steady is not False:
        return None
    if steadiness.growth is None:
        return "the latencies had not settled by the middle of the stage"
    way = "grew" if steadiness.growth > 0 else "fell"
    return f"the latencies {way} all the time: by {abs(steadiness.growth):.0%} from the first third to the last"
