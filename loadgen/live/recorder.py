"""The sink that adds records to counts and histograms of each interval, while the run is in progress.

Its memory is bounded by the number of intervals, not by that of requests, because it keeps no record. A reader (a
dashboard, a page of metrics, the windows of a soak) takes `snapshot`. Snapshots of several processes or machines merge
exactly, as their histograms do.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

import numpy as np
from msgspec import Struct

from loadgen.analysis import metrics
from loadgen.analysis.metrics import Ns
from loadgen.live.sink import NullSink, StageStart
from loadgen.record import Outcome, Record
from loadgen.stats.histogram import HIGHEST_NS, Histogram, buckets_of

INTERVAL_NS: Final = 1_000_000_000
MAX_INTERVALS: Final = 1440
"""If a stage has more intervals, each two are merged into one, and intervals are twice as long from then on."""
FOLD_EVERY: Final = 256
"""How many records are added at once, which costs much less than adding each when its request ends."""
RECORDED_METRICS: Final = ("ttft", "itl", "e2e")


class IntervalSnapshot(Struct, frozen=True):
    """The requests to one model that ended within one interval. All of a request counts in the interval of its end."""

    model: str
    target: str
    level: str
    start_ns: int
    """On the run's clock; the interval ends where the next one begins."""
    length_ns: int
    by_outcome: Mapping[Outcome, int]
    output_tokens: int
    buckets: Mapping[str, Mapping[int, int]]
    """By metric: how many values of ok requests fell into each bucket of `loadgen.stats.histogram`."""

    def histogram(self, metric: str) -> Histogram:
        return Histogram.of_buckets(self.buckets[metric])


class _Interval:
    """The counts of one interval of one model."""

    __slots__ = ("buckets", "by_outcome", "output_tokens")

    def __init__(self) -> None:
        self.by_outcome: Counter[Outcome] = Counter()
        self.output_tokens = 0
        self.buckets: dict[str, Counter[int]] = {metric: Counter() for metric in RECORDED_METRICS}

    def merge(self, other: "_Interval") -> None:
        self.by_outcome.update(other.by_outcome)
        self.output_tokens += other.output_tokens
        for metric, counts in other.buckets.items():
            self.buckets[metric].update(counts)


class _StageRecording:
    """The intervals of one stage; `length_ns` doubles whenever there are too many."""

    def __init__(self, stage: StageStart, length_ns: int, max_intervals: int) -> None:
        self._stage = stage
        self._length_ns = length_ns
        self._max_intervals = max_intervals
        self._intervals: dict[tuple[str, str, int], _Interval] = {}
        """By target, model, and number on the run's clock."""
        self._pending: list[Record] = []

    def take(self, record: Record) -> None:
        self._pending.append(record)
        if len(self._pending) >= FOLD_EVERY:
            self.fold()

    def fold(self) -> None:
        """Add the pending records to their intervals."""
        ok: list[Record] = []
        intervals: list[_Interval] = []
        for record in self._pending:
            ended_ns = record.intended_ns if record.end_ns is None else record.end_ns
            key = (record.target, record.model, ended_ns // self._length_ns)
            interval = self._intervals.get(key)
            if interval is None:
                interval = self._intervals[key] = _Interval()
            interval.by_outcome[record.outcome] += 1
            if record.outcome == "ok":
                interval.output_tokens += record.output_tokens or 0
                ok.append(record)
                intervals.append(interval)
        self._pending = []
        for metric, (values_ns, owners) in self._values_of(ok).items():
            _count(metric, values_ns, owners, intervals)
        while len({number for *_, number in self._intervals}) > self._max_intervals:
            self._merge_neighbors()

    def _values_of(self, ok: list[Record]) -> dict[str, tuple[Ns, Ns]]:
        """By metric: its values, and the index of the record to which each belongs."""
        starts = [metrics.start_of(record, origin=self._stage.latency_origin) for record in ok]
        firsts = [record.stamps_ns[0] if record.stamps_ns else None for record in ok]
        gaps = metrics.gaps_of(ok)
        return {
            "ttft": _differences(starts, firsts),
            "itl": (gaps.values, gaps.owners),
            "e2e": _differences(starts, [record.end_ns for record in ok]),
        }

    def _merge_neighbors(self) -> None:
        self._length_ns *= 2
        merged: dict[tuple[str, str, int], _Interval] = {}
        for (target, model, number), interval in self._intervals.items():
            merged.setdefault((target, model, number // 2), _Interval()).merge(interval)
        self._intervals = merged

    def snapshot(self) -> Iterable[IntervalSnapshot]:
        self.fold()
        for (target, model, number), interval in sorted(self._intervals.items()):
            yield IntervalSnapshot(
                model=model,
                target=target,
                level=self._stage.level,
                start_ns=number * self._length_ns,
                length_ns=self._length_ns,
                by_outcome=dict(interval.by_outcome),
                output_tokens=interval.output_tokens,
                buckets={metric: dict(counts) for metric, counts in interval.buckets.items()},
            )


class Recorder(NullSink):
    """Folds the measured requests of all stages, each into intervals of its own."""

    def __init__(self, interval_ns: int = INTERVAL_NS, max_intervals: int = MAX_INTERVALS) -> None:
        """interval_ns: how long each stage's intervals are at first. max_intervals: how many a stage may have."""
        self._interval_ns = interval_ns
        self._max_intervals = max_intervals
        self._stages: list[_StageRecording] = []

    def start(self, stage: StageStart) -> None:
        self._stages.append(_StageRecording(stage, self._interval_ns, self._max_intervals))

    def record(self, record: Record) -> None:
        if record.phase == "measured":
            self._stages[-1].take(record)

    def snapshot(self) -> tuple[IntervalSnapshot, ...]:
        """All intervals so far, by stage, and within it by target, model and time."""
        return tuple(interval for stage in self._stages for interval in stage.snapshot())


def _differences(starts: Sequence[int | None], ends: Sequence[int | None]) -> tuple[Ns, Ns]:
    """The differences where both ends are known, and the index of each."""
    known = [
        (at, end - start)
        for at, (start, end) in enumerate(zip(starts, ends, strict=True))
        if start is not None and end is not None
    ]
    owners, values = np.array(known, dtype=np.int64).reshape(-1, 2).T
    return values, owners


def _count(metric: str, values_ns: Ns, owners: Ns, intervals: Sequence[_Interval]) -> None:
    """Count each value in its bucket of the interval of its owner."""
    is_inside = (values_ns >= 0) & (values_ns <= HIGHEST_NS)
    buckets = buckets_of(values_ns[is_inside])
    pairs, counts = np.unique((owners[is_inside] << 32) | buckets, return_counts=True)
    for pair, count in zip(pairs.tolist(), counts.tolist(), strict=True):
        intervals[pair >> 32].buckets[metric][pair & 0xFFFFFFFF] += count
