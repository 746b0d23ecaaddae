"""Adds records to counts and histograms of intervals of time, while the run is in progress.

No record is kept, so memory is bounded by the number of intervals, not by that of requests. `Fold` is the fold itself;
the windows of a soak are its intervals (`loadgen.engine.soak.windows`). `Recorder` is the sink that folds every stage,
for a reader that takes `snapshot` (a dashboard, a page of metrics). Snapshots of several processes or machines merge
exactly, as their histograms do.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Final

import numpy as np
from msgspec import Struct

from loadgen.live.sink import NullSink, StageStart
from loadgen.record import LatencyOrigin, Outcome, Record, StageKey
from loadgen.scenario import Slo
from loadgen.stats.histogram import HIGHEST_NS, Histogram, buckets_of
from loadgen.store.windows import WINDOW_METRICS

if TYPE_CHECKING:
    from loadgen.analysis.metrics import Ns

INTERVAL_NS: Final = 1_000_000_000
MAX_INTERVALS: Final = 1440
"""If a stage has more intervals, each two are merged into one, and intervals are twice as long from then on."""
FOLD_EVERY: Final = 256
"""How many records are added at once, which costs much less than adding each when its request ends."""
FOLD_TOKENS: Final = 16_384
"""Records are also added once they have this many tokens together, so that long answers take no more memory."""
PUNCTUAL: Final = {"ttft": "punctual_ttft", "e2e": "punctual_e2e"}
"""The latencies as they would be without our own lateness in sending. Where latencies count from the send, they are the
same, and have no histogram of their own."""
RECORDED_METRICS: Final = (*WINDOW_METRICS, "dispatch_slip", *PUNCTUAL.values())
"""All are of ok requests, but for `dispatch_slip`, which is of all requests that were sent."""


class IntervalSnapshot(Struct, frozen=True):
    """The requests to one model that ended within one interval. All of a request counts in the interval of its end."""

    model: str
    target: str
    level: str
    start_ns: int
    """On the run's clock; the interval ends where the next one begins."""
    length_ns: int
    by_outcome: dict[Outcome, int]
    output_tokens: int
    """Of ok requests, as are the next two."""
    prompt_tokens: int
    stream_ns: int
    """For how long they were under way, added up: each from its first token to its end."""
    slo_met: int | None
    """How many requests met the SLO; None without one."""
    slip_ns: int
    """How late requests were sent through our own fault, added up."""
    user_stamped: int
    """How many ok requests have stamps that were taken in user space."""
    over_range: int
    """How many values of the latencies are in no bucket, because they are negative or above an hour."""
    buckets: dict[str, dict[int, int]]
    """By metric: how many values fell into each bucket of `loadgen.stats.histogram`."""
    extremes_ns: dict[str, tuple[int, int]]
    """By metric: its smallest and largest value in a bucket, exactly. A metric without a value has no entry."""

    @property
    def key(self) -> StageKey:
        return StageKey(self.target, self.model, self.level)

    def histogram(self, metric: str) -> Histogram:
        return Histogram.of_buckets(self.buckets.get(metric, {}), self.extremes_ns.get(metric))


class IntervalCounts:
    """The counts of one interval of one model."""

    __slots__ = (
        *("buckets", "by_outcome", "extremes_ns", "output_tokens", "over_range"),
        *("prompt_tokens", "slip_ns", "slo_met", "stream_ns", "user_stamped"),
    )

    def __init__(self) -> None:
        self.by_outcome: Counter[Outcome] = Counter()
        self.output_tokens = self.prompt_tokens = self.stream_ns = self.slo_met = self.slip_ns = 0
        self.over_range = self.user_stamped = 0
        self.buckets: dict[str, Counter[int]] = {metric: Counter() for metric in RECORDED_METRICS}
        self.extremes_ns: dict[str, tuple[int, int]] = {}

    def merge(self, other: "IntervalCounts | IntervalSnapshot") -> None:
        """Add all counts of another, exactly as if its requests had been added here."""
        self.by_outcome.update(other.by_outcome)
        self.output_tokens += other.output_tokens
        self.prompt_tokens += other.prompt_tokens
        self.stream_ns += other.stream_ns
        self.slo_met += other.slo_met or 0
        self.slip_ns += other.slip_ns
        self.over_range += other.over_range
        self.user_stamped += other.user_stamped
        for metric, counts in other.buckets.items():
            self.buckets[metric].update(counts)
        for metric, extremes in other.extremes_ns.items():
            self.widen(metric, *extremes)

    def widen(self, metric: str, low_ns: int, high_ns: int) -> None:
        known = self.extremes_ns.get(metric, (low_ns, high_ns))
        self.extremes_ns[metric] = min(known[0], low_ns), max(known[1], high_ns)

    def snapshot(self, key: StageKey, start_ns: int, length_ns: int, slo: Slo | None) -> IntervalSnapshot:
        return IntervalSnapshot(
            model=key.model,
            target=key.target,
            level=key.level,
            start_ns=start_ns,
            length_ns=length_ns,
            by_outcome=dict(self.by_outcome),
            output_tokens=self.output_tokens,
            prompt_tokens=self.prompt_tokens,
            stream_ns=self.stream_ns,
            slo_met=None if slo is None else self.slo_met,
            slip_ns=self.slip_ns,
            user_stamped=self.user_stamped,
            over_range=self.over_range,
            buckets={metric: dict(counts) for metric, counts in self.buckets.items() if counts},
            extremes_ns=dict(self.extremes_ns),
        )


class Fold:
    """Adds the records of one stage to the intervals in which their requests ended, in batches.

    The order in which records come, and when they are folded, change no count.
    """

    def __init__(self, stage: StageStart, number_of: Callable[[int], int], slo: Slo | None = None) -> None:
        """number_of: the number of the interval that has a moment of the run's clock."""
        # Here, so that nothing that folds no records waits for it, and no fold does.
        import loadgen.analysis.metrics  # noqa: F401

        self._stage = stage
        self._number_of = number_of
        self.slo = slo
        self.intervals: dict[tuple[StageKey, int], IntervalCounts] = {}
        """By stage and model, and number."""
        self._pending: list[Record] = []
        self._pending_tokens = 0

    def take(self, record: Record) -> bool:
        """Take a record. Returns whether all records so far are in their intervals now."""
        self._pending.append(record)
        self._pending_tokens += len(record.stamps_ns)
        if len(self._pending) >= FOLD_EVERY or self._pending_tokens >= FOLD_TOKENS:
            self.fold()
        return not self._pending

    def fold(self) -> None:
        """Add the pending records to their intervals."""
        from loadgen.analysis import metrics

        ok, intervals_of_ok = list[Record](), list[IntervalCounts]()
        slips_ns, intervals_of_sent = list[int](), list[IntervalCounts]()
        for record in self._pending:
            interval = self._interval_of(record)
            interval.by_outcome[record.outcome] += 1
            if record.dispatched_ns is not None:
                slips_ns.append(metrics.slip_ns(record))
                interval.slip_ns += slips_ns[-1]
                intervals_of_sent.append(interval)
            if record.outcome == "ok":
                self._count_ok(record, interval)
                ok.append(record)
                intervals_of_ok.append(interval)
        self._pending, self._pending_tokens = [], 0
        _count("dispatch_slip", np.array(slips_ns, dtype=np.int64), np.arange(len(slips_ns)), intervals_of_sent)
        gaps = metrics.gaps_of(ok)
        _count("itl", gaps.values, gaps.owners, intervals_of_ok)
        for metric, rows in _rows_of(ok, self._stage.latency_origin).items():
            places, values_ns = np.array(rows, dtype=np.int64).reshape(-1, 2).T
            _count(metric, values_ns, places, intervals_of_ok)

    def _interval_of(self, record: Record) -> IntervalCounts:
        ended_ns = record.intended_ns if record.end_ns is None else record.end_ns
        key = (StageKey(record.target, record.model, self._stage.level), self._number_of(ended_ns))
        interval = self.intervals.get(key)
        if interval is None:
            interval = self.intervals[key] = IntervalCounts()
        return interval

    def _count_ok(self, record: Record, interval: IntervalCounts) -> None:
        interval.output_tokens += record.output_tokens or 0
        interval.prompt_tokens += record.prompt_tokens or 0
        if record.stamps_ns and record.end_ns is not None:
            interval.stream_ns += max(0, record.end_ns - record.stamps_ns[0])
        interval.user_stamped += record.stamp_source == "user" and bool(record.stamps_ns)
        if self.slo is not None:
            from loadgen.analysis import metrics

            interval.slo_met += metrics.meets(record, self.slo, origin=self._stage.latency_origin)


class _StageRecording:
    """The intervals of one stage; `length_ns` doubles whenever there are too many."""

    def __init__(self, stage: StageStart, length_ns: int, max_intervals: int) -> None:
        self._length_ns = length_ns
        self._max_intervals = max_intervals
        self._fold = Fold(stage, self._number_of)

    def _number_of(self, moment_ns: int) -> int:
        return moment_ns // self._length_ns

    def take(self, record: Record) -> None:
        if self._fold.take(record):
            self._limit()

    def _limit(self) -> None:
        while len({number for _, number in self._fold.intervals}) > self._max_intervals:
            self._length_ns *= 2
            merged: dict[tuple[StageKey, int], IntervalCounts] = {}
            for (key, number), interval in self._fold.intervals.items():
                merged.setdefault((key, number // 2), IntervalCounts()).merge(interval)
            self._fold.intervals = merged

    def snapshot(self) -> Iterable[IntervalSnapshot]:
        self._fold.fold()
        self._limit()
        for (key, number), interval in sorted(self._fold.intervals.items()):
            yield interval.snapshot(key, number * self._length_ns, self._length_ns, None)


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


def _rows_of(ok: Sequence[Record], origin: LatencyOrigin) -> Mapping[str, list[tuple[int, int]]]:
    """By metric with one value a request: the place of each request that has one, and the value."""
    from loadgen.analysis import metrics

    rows: dict[str, list[tuple[int, int]]] = {
        "ttft": [],
        "tpot": [],
        "e2e": [],
        "punctual_ttft": [],
        "punctual_e2e": [],
    }
    for place, record in enumerate(ok):
        start_ns = metrics.start_of(record, origin=origin)
        first_ns = record.stamps_ns[0] if record.stamps_ns else None
        for metric, end_ns in (("ttft", first_ns), ("e2e", record.end_ns)):
            if start_ns is not None and end_ns is not None:
                rows[metric].append((place, end_ns - start_ns))
                if origin == "intended":
                    rows[PUNCTUAL[metric]].append((place, end_ns - start_ns - metrics.slip_ns(record)))
        tpot_ns = metrics.tpot_ns(record)
        if tpot_ns is not None:
            rows["tpot"].append((place, tpot_ns))
    return rows


def _count(metric: str, values_ns: "Ns", places: "Ns", intervals: Sequence[IntervalCounts]) -> None:
    """Count each value in its bucket of an interval.

    places: for each value, the index into `intervals`, in which an interval may stand many times.
    """
    if not len(values_ns):
        return
    distinct = list({id(interval): interval for interval in intervals}.values())
    numbers = {id(interval): number for number, interval in enumerate(distinct)}
    owners = np.array([numbers[id(interval)] for interval in intervals], dtype=np.int64)[places]
    is_inside = (values_ns >= 0) & (values_ns <= HIGHEST_NS)
    if metric in WINDOW_METRICS and not is_inside.all():
        for number, count in enumerate(np.bincount(owners[~is_inside]).tolist()):
            distinct[number].over_range += count
    owners, values_ns = owners[is_inside], values_ns[is_inside]
    lows_ns, highs_ns = np.full(len(distinct), HIGHEST_NS), np.full(len(distinct), -1)
    np.minimum.at(lows_ns, owners, values_ns)
    np.maximum.at(highs_ns, owners, values_ns)
    for interval, low_ns, high_ns in zip(distinct, lows_ns.tolist(), highs_ns.tolist(), strict=True):
        if high_ns >= 0:
            interval.widen(metric, low_ns, high_ns)
    pairs, counts = np.unique((owners << 32) | buckets_of(values_ns), return_counts=True)
    for pair, count in zip(pairs.tolist(), counts.tolist(), strict=True):
        distinct[pair >> 32].buckets[metric][pair & 0xFFFFFFFF] += count
